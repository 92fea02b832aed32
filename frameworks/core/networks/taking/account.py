"""Every weight of a network accounted for, by storage: quantized, left in float, or unused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from frameworks.core.layers import Layer
from frameworks.core.networks.taking.storage import storage_of
from frameworks.core.networks.taking.take import taken
from frameworks.core.networks.taking.watching import Watching

SHOWN = 3
"""Names of parameters in a message."""


@dataclass(frozen=True)
class Accounting:
    """The parameters of two or more dimensions, each stored tensor counted once.

    Attributes:
        quantized: how many weights have bits, and are priced.
        left: numbers of weights by parameter that the network computes with in float, free of
            charge: position embeddings, say.
        unused: numbers of weights by parameter that evaluation never reads.
    """

    quantized: int
    left: Mapping[str, int]
    unused: Mapping[str, int]

    @property
    def share(self) -> float:
        """The share of the weights in use that stay in float, between 0 and 1."""
        left = sum(self.left.values())
        return left / max(self.quantized + left, 1)

    def text(self) -> str:
        """One sentence on what is left out; empty if nothing is."""
        if not self.left:
            return ""
        most = sorted(self.left.items(), key=lambda item: -item[1])
        names = ", ".join(f"{name} ({count})" for name, count in most[:SHOWN])
        more = f" and {len(most) - SHOWN} more" if len(most) > SHOWN else ""
        return f"{self.share:.2%} of the weights stay in float and cost nothing: {names}{more}"

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "quantized": self.quantized, "left": dict(self.left), "unused": dict(self.unused),
            "share": self.share, "note": self.text(),
        }  # fmt: skip


class _Reads(Watching):
    """Notes the storages that operations read, through views, too."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: set[Any] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for leaf in tree_leaves((args, kwargs)):
            if isinstance(leaf, Tensor):
                self.seen.add(storage_of(leaf)[0])
        return func(*args, **(kwargs or {}))


@torch.no_grad()
def account(model: nn.Module, layers: Sequence[Layer], input_shape: Sequence[int]) -> Accounting:
    """Account for a network's weights.

    Args:
        model: the float network, as given or as taken.
        layers: its layers, from `frameworks.core.networks.taking.describe`.
        input_shape: shape of one sample, ``(C, H, W)``.
    """
    network = taken(model, [layer.name for layer in layers if layer.read])
    modes = {module: module.training for module in network.modules()}
    like = next(network.parameters())
    reads = _Reads()
    try:
        network.eval()
        with reads:
            network(torch.zeros(1, *input_shape, device=like.device, dtype=like.dtype))
    finally:
        for module, mode in modes.items():
            module.training = mode
    counted: set[tuple[Any, ...]] = set()
    quantized = 0
    for layer in layers:
        weight = network.get_submodule(layer.name).weight
        assert isinstance(weight, Tensor)
        if storage_of(weight) not in counted:
            counted.add(storage_of(weight))
            quantized += weight.numel()
    left: dict[str, int] = {}
    unused: dict[str, int] = {}
    for name, parameter in network.named_parameters():
        key = storage_of(parameter)
        if parameter.dim() > 1 and key not in counted:
            counted.add(key)
            (left if key[0] in reads.seen else unused)[name] = parameter.numel()
    return Accounting(quantized, left, unused)
