"""The quantizable layers of a network, from one forward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from frameworks.core.layers import Layer
from frameworks.core.networks.taking.reads import SUFFIX, Observed, Read
from frameworks.core.networks.taking.storage import (
    in_different_shapes,
    overlap,
    same_place,
    storage_of,
)
from frameworks.core.networks.taking.take import LAYERS, taken
from frameworks.core.networks.taking.transposed import Transposed, positions


def _block_of(model: nn.Module, name: str) -> str:
    """The outermost numbered ancestor that is a block and not a stage of blocks.

    ``layer2.0.downsample.0`` gives ``layer2.0``; ``blocks.1.0.conv_pw`` gives ``blocks.1.0``
    (``blocks.1`` is a plain container); a layer outside any block is its own block.
    """
    parts = name.split(".")
    for depth in range(1, len(parts)):
        prefix = ".".join(parts[:depth])
        module = model.get_submodule(prefix)
        if not parts[depth - 1].isdigit() or isinstance(module, nn.Sequential | nn.ModuleList):
            continue
        if not _holds_blocks(module):
            return prefix
    return name


def _holds_blocks(module: nn.Module) -> bool:
    containers = (m for m in module.modules() if isinstance(m, nn.Sequential | nn.ModuleList))
    return any(
        sum(isinstance(leaf, LAYERS) for leaf in child.modules()) > 1
        and not isinstance(child, LAYERS)
        for container in containers
        if container is not module
        for child in container.children()
    )


def _shape_facts(module: nn.Module, x: Tensor, y: Tensor) -> dict[str, Any]:
    # One sample went in: what stands in the batch dimension is windows or patches of it.
    weight = module.weight
    assert isinstance(weight, Tensor)
    weights, kernel = weight.numel(), tuple(weight.shape[2:])
    facts: dict[str, Any] = {
        "in_channels": weight.shape[1],
        "out_channels": len(weight),
        "params": weights,
        "read": isinstance(module, Read),
    }
    if not kernel:
        tokens = y.numel() // len(weight)
        size = (tokens,) if y.dim() > 2 or tokens > 1 else ()
        return facts | dict(
            kind="linear", kernel=(1,), stride=(1,), groups=1, in_size=size, out_size=size,
            macs=tokens * weights,
        )  # fmt: skip
    given = module.facts if isinstance(module, Read) else vars(module)
    groups, stride = int(given.get("groups", 1)), given.get("stride", 1)
    transposed = isinstance(module, Transposed)
    facts["in_channels"] *= groups
    places = positions(x, facts["in_channels"]) if transposed else y.numel() // len(weight)
    return facts | dict(
        kind="conv", kernel=kernel, groups=groups, transposed=transposed,
        stride=(stride,) * len(kernel) if isinstance(stride, int) else tuple(stride),
        in_size=tuple(x.shape[2:]), out_size=tuple(y.shape[2:]), macs=places * weights,
    )  # fmt: skip


@dataclass
class _Pass:
    """What one forward pass shows.

    Attributes:
        found: layers that were called, by name, in order.
        reads: layers whose weights a function read outside their own call, in order.
    """

    model: nn.Module
    found: dict[str, Layer] = field(default_factory=dict)
    reads: dict[str, None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.names: dict[nn.Module, str] = {
            m: n for n, m in self.model.named_modules() if isinstance(m, LAYERS)
        }
        self.weights: dict[int, str] = {}
        self.stored = {self._storage(m): n for m, n in self.names.items()}
        self.views: dict[str, None] = {}
        self.running: list[nn.Module] = []
        self.storages: dict[Any, list[tuple[str, Tensor]]] = {}
        for path, module in self.model.named_modules():
            for attribute, parameter in module._parameters.items():
                if parameter is not None and parameter.dim() > 1:
                    is_layer = isinstance(module, LAYERS) and attribute == "weight"
                    bare = f"{path}.{attribute}".lstrip(".") + SUFFIX
                    if is_layer or id(parameter) not in self.weights:
                        self.weights[id(parameter)] = path if is_layer else bare

    def begin(self, module: nn.Module, args: tuple[Tensor, ...]) -> None:
        self.running.append(module)

    def end(self, module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        self.running.pop()
        name = self.names[module]
        if not args:
            raise ValueError(f"layer {name} is called with a keyword; give it one tensor: layer(x)")
        facts = _shape_facts(module, args[0], output)
        if name in self.found:
            again = self.found[name]
            self.found[name] = replace(again, macs=again.macs + facts["macs"])
            return
        weight = module.weight
        assert isinstance(weight, Tensor)
        owner = self._owner(name, weight)
        self.found[name] = Layer(
            name=name, index=len(self.found), block=_block_of(self.model, name),
            shared="" if owner == name else owner, **facts,
        )  # fmt: skip

    def _within_calls(self, module: nn.Module) -> Callable[..., Any]:
        """A layer's forward, refused outside of a call: nothing that hangs on the call sees it."""
        forward = module.forward

        def checked(*args: Any, **kwargs: Any) -> Any:
            if module not in self.running:
                name = self.names[module]
                leaf = name.rpartition(".")[2]
                raise ValueError(
                    f"layer {name} is called by .forward; call it as a module: {leaf}(x)"
                )
            return forward(*args, **kwargs)

        return checked

    def _owner(self, name: str, weight: Tensor) -> str:
        """The first layer that stores a weight: the named one, if none before it does."""
        known = self.storages.setdefault(storage_of(weight)[0], [])
        for owner, stored in known:
            if same_place(stored, weight):
                return owner
            if overlap(stored, weight):
                raise in_different_shapes(owner, name)
        known.append((name, weight))
        return name

    def seen(self, weight: Any) -> None:
        """A function was called with a weight."""
        if not isinstance(weight, Tensor):
            return
        storage = storage_of(weight)[0]
        own = any(self._storage(module) == storage for module in self.running)
        if own:
            return
        if id(weight) in self.weights:
            self.reads.setdefault(self.weights[id(weight)])
        elif storage in self.stored:
            self.views.setdefault(self.stored[storage])

    def _storage(self, module: nn.Module) -> Any:
        weight = module._parameters.get("weight")
        return None if weight is None else storage_of(weight)[0]

    @contextmanager
    def watched(self) -> Iterator[None]:
        handles = [m.register_forward_pre_hook(self.begin) for m in self.names]
        handles += [m.register_forward_hook(self.end) for m in self.names]
        training = {m: m.training for m in self.model.modules()}
        own = {m: vars(m)["forward"] for m in self.names if "forward" in vars(m)}
        try:
            self.model.eval()
            for module in self.names:
                vars(module)["forward"] = self._within_calls(module)
            with Observed(self.seen):
                yield
        finally:
            for module in self.names:
                vars(module).pop("forward", None)
            for module, forward in own.items():
                vars(module)["forward"] = forward
            for handle in handles:
                handle.remove()
            for module, mode in training.items():
                module.training = mode


@torch.no_grad()
def describe(model: nn.Module, input_shape: Sequence[int]) -> tuple[Layer, ...]:
    """Every quantizable layer that one forward pass reaches, in execution order.

    Args:
        model: any module made of ``Conv2d`` (grouped and depthwise too), ``Conv1d``, ``Linear`` and
            what a network is rewritten into these where it is taken (`frameworks.core.networks`):
            transposed convolutions, attention, recurrent modules, weights that functions read.
        input_shape: shape of one sample, ``(C, H, W)``.

    Raises:
        ValueError: the model has no quantizable layer, one whose weight cannot be quantized, or one
            that is not called as a module.
    """
    network = taken(model)
    shown = _passed(network, input_shape)
    both = (name for name in shown.reads if name in shown.found)
    odd = next((name for name in both if shown.found[name].kind != "linear"), None)
    odd = odd or next((name for name in shown.views if name in shown.found), None)
    if odd is not None:
        raise ValueError(
            f"layer {odd} is called as a module and its weight is read by a function, too; one "
            "policy entry cannot stand for both: give the function a module of its own"
        )
    if shown.reads:
        shown = _passed(taken(network, shown.reads), input_shape)
    if not shown.found:
        raise ValueError("the model has no Conv1d, Conv2d or Linear layer to quantize")
    return tuple(shown.found.values())


def _passed(network: nn.Module, input_shape: Sequence[int]) -> _Pass:
    shown = _Pass(network)
    parameter = next(network.parameters())
    with shown.watched():
        network(torch.zeros(1, *input_shape, device=parameter.device, dtype=parameter.dtype))
    return shown
