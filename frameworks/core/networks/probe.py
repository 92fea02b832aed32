"""A probe of a wrapped network: do the bits of every layer reach what is computed?

One forward pass over two images, in the state in which policies are evaluated. At each call of a
layer its output is computed again with another weight, and with another input: where that changes
nothing, the layer's weight or activation bits mean nothing. A layer that is not called at all,
whose float weight is read beside its call, or a network that computes otherwise as soon as
gradients are on, is one whose bits a fused kernel or a path of its own passes by.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from frameworks.core.networks.taking.storage import storage_of
from frameworks.core.networks.taking.watching import Watching
from frameworks.core.policy import FLOAT, LayerBits
from frameworks.core.quantizers.base import Float

if TYPE_CHECKING:
    from frameworks.core.networks.qlayer import QLayer

CLOSE = 1e-3
"""Relative difference of outputs that sums in another order explain."""


class _Noise(Float):
    """Adds noise as large as the values: the mark of a quantizer that nothing can miss."""

    def forward(self, x: Tensor) -> Tensor:
        drawn = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
        return x + drawn.to(x) * (x.detach().abs().mean() + 1e-3)


def probe(model: nn.Module, qlayers: Mapping[str, QLayer], images: Tensor) -> None:
    """Check that each layer's weight bits alone and its input bits alone reach its call.

    Args:
        model: the network with its wrapped layers; it is left as it was.
        qlayers: these layers by name.
        images: two images ``[2, C, H, W]``.

    Raises:
        ValueError: they do not, for the layers that it names.
    """
    modes = {m: m.training for m in model.modules() if hasattr(m, "training")}
    model.eval()
    run = _Probe(qlayers)
    try:
        with run.watched():
            with torch.no_grad(), run:
                plain = model(images)
            with torch.enable_grad():
                graph = model(images)
    finally:
        for module, mode in modes.items():
            module.training = mode
    run.judge(plain, graph)


@torch.no_grad()
def same_function(given: nn.Module, wrapped: nn.Module, images: Tensor) -> None:
    """Check that a network computes the same with its layers wrapped, at float bits.

    Args:
        given: the network as it was given.
        wrapped: what policies are evaluated on.
        images: two images ``[2, C, H, W]``.

    Raises:
        ValueError: it does not.
    """
    outputs = []
    for network in (given, wrapped):
        modes = {m: m.training for m in network.modules() if hasattr(m, "training")}
        network.eval()
        outputs.append(network(images))
        for module, mode in modes.items():
            module.training = mode
    if isinstance(outputs[0], Tensor) and not _same(*outputs):
        gap = float((outputs[0] - outputs[1]).abs().max())
        raise ValueError(
            f"the network computes otherwise with its layers wrapped (logits are off by {gap:.3g}):"
            " it asks for the type of its modules, reads one where another was put, or reads what "
            "torch's encoder leaves at padded places; call layers as modules, branch on attributes "
            "of its own, and leave padded places out"
        )


class _Probe(Watching):
    """Watches one pass."""

    def __init__(self, qlayers: Mapping[str, QLayer]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names = {q: name for name, q in qlayers.items()}
        self.raw = {storage_of(_weight(q)): name for name, q in qlayers.items()}
        self.called: set[str] = set()
        self.faults: dict[str, str] = {}
        self.inside = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not self.inside:
            for leaf in tree_leaves((args, kwargs)):
                if isinstance(leaf, Tensor) and storage_of(leaf) in self.raw:
                    name = self.raw[storage_of(leaf)]
                    self._fault(name, "its float weight is read beside its own call")
        return func(*args, **(kwargs or {}))

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Within the context, layers compute with other weights, and each call is tried out."""
        handles, kept = [], []
        for q in self.names:
            kept.append((q, q.bits, q.weight_quantizer, q.act_quantizer, q._fixed_weight))
            with torch.no_grad():
                fixed = _Noise()(_weight(q).detach())
            q.use(LayerBits(FLOAT, FLOAT), Float(), Float())
            q._fixed_weight = fixed
            handles.append(q.register_forward_pre_hook(self._enter))
            handles.append(q.register_forward_hook(self._leave))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
            for q, bits, weight, act, fixed_before in kept:
                q.use(bits, weight, act)
                q._fixed_weight = fixed_before

    def _enter(self, q: QLayer, args: tuple[Tensor, ...]) -> None:
        self.inside += 1

    def _leave(self, q: QLayer, args: tuple[Tensor, ...], output: Tensor) -> None:
        name = self.names[q]
        if name not in self.called:
            self._try(name, q, args[0])
        self.called.add(name)
        self.inside -= 1

    @torch.no_grad()
    def _try(self, name: str, q: QLayer, like: Tensor) -> None:
        """Compute a call again with other bits, on inputs that no weight turns to zero."""
        if not like.numel():
            return
        x, noisy = _Noise()(torch.ones_like(like)), q._fixed_weight
        here = q.forward(x)
        q._fixed_weight = None
        plain = q.forward(x)
        q._fixed_weight = noisy
        q.act_quantizer = _Noise()
        moved = q.forward(x)
        q.act_quantizer = Float()
        by_weight, by_input = not _same(here, plain), not _same(here, moved)
        # A gain of zero hides both, and with them nothing that could be quantized.
        if by_input and not by_weight:
            self._fault(name, "its weight bits do not reach its call")
        if by_weight and not by_input:
            self._fault(name, "its activation bits do not reach its call")

    def _fault(self, name: str, text: str) -> None:
        self.faults.setdefault(name, text)

    def judge(self, plain: Any, graph: Any) -> None:
        """Raise for what was seen.

        Raises:
            ValueError: a layer's bits mean nothing.
        """
        for name in self.names.values():
            if name not in self.called:
                self.faults[name] = (
                    "it is never called in evaluation: a fused kernel or a path of its own takes "
                    "its place, or no image reaches it"
                )
        if self.faults:
            name, text = next(iter(self.faults.items()))
            more = f" (and {len(self.faults) - 1} more)" if len(self.faults) > 1 else ""
            raise ValueError(
                f"layer {name}{more} cannot be quantized in this network: {text}; rewrite the "
                "network so that the layer is called as a module, with its input"
            )
        if isinstance(plain, Tensor) and not _same(plain, graph):
            raise ValueError(
                "the network computes otherwise when gradients are on, so that what is trained is "
                "not what is evaluated; turn its fused or random paths off"
            )


def _weight(q: QLayer) -> Tensor:
    weight = q.inner.weight
    assert isinstance(weight, Tensor)
    return weight


def _same(one: Tensor, two: Tensor) -> bool:
    reach = CLOSE * float(one.abs().max())
    return bool(torch.allclose(one, two, rtol=CLOSE, atol=reach))
