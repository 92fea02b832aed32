"""Taps: what chosen layers read and give in a forward pass, as tensors to differentiate by."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import Tensor, nn


@dataclass(frozen=True)
class Taps:
    """Tensors by layer, one for each call of it in the last forward pass.

    Attributes:
        inputs: a layer's own copy of its input, so that a tensor which several layers read can be
            differentiated for one of them only.
        outputs: what the layer gives.
        reads: the layer's input as plain data, kept for the layers whose outputs are tapped.
    """

    inputs: dict[str, list[Tensor]] = field(default_factory=dict)
    outputs: dict[str, list[Tensor]] = field(default_factory=dict)
    reads: dict[str, list[Tensor]] = field(default_factory=dict)

    def clear(self) -> None:
        """Forget what was kept, before another forward pass."""
        for kept in (self.inputs, self.outputs, self.reads):
            for name in kept:
                kept[name] = []

    def _incoming(self, name: str, module: nn.Module, args: tuple[Tensor, ...]) -> Any:
        own = args[0].clone()
        self.inputs[name].append(own if own.requires_grad else own.requires_grad_())
        return (own, *args[1:])

    def _outgoing(
        self, name: str, module: nn.Module, args: tuple[Tensor, ...], output: Tensor
    ) -> Tensor:
        self.reads[name].append(args[0].detach())
        self.outputs[name].append(output if output.requires_grad else output.requires_grad_())
        return output.clone()  # what follows may change it in place


@contextmanager
def tapped(
    model: nn.Module, *, inputs: Sequence[str] = (), outputs: Sequence[str] = ()
) -> Iterator[Taps]:
    """Tap a model's layers in every forward pass within the context."""
    taps = Taps({n: [] for n in inputs}, {n: [] for n in outputs}, {n: [] for n in outputs})
    handles = [
        model.get_submodule(n).register_forward_pre_hook(partial(taps._incoming, n)) for n in inputs
    ] + [model.get_submodule(n).register_forward_hook(partial(taps._outgoing, n)) for n in outputs]
    try:
        yield taps
    finally:
        for handle in handles:
            handle.remove()
