"""Where the images of a batch are in what layers read and give.

Mostly they are the first dimension. But windows of an image stand there one after the other (Swin),
recurrent and some attention modules put the time first, and steps of time may be laid over the
images. A trace takes a norm for each image, so this must be known; it is seen by running two images
together and each alone. Where it cannot be seen, images go through the network one at a time, and
all that a layer reads is of that one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from frameworks.core.estimators.taps import tapped
from frameworks.core.networks.taking.reads import Read

CLOSE = 1e-3
"""Relative difference that sums in another order explain."""
FORWARDS: dict[type[nn.Module], Any] = {
    nn.Linear: nn.Linear.forward,
    nn.Conv1d: nn.Conv1d.forward,
    nn.Conv2d: nn.Conv2d.forward,
    Read: Read.forward,
}
"""Layers whose output is linear in their weight, if they compute it by this very function."""


@dataclass(frozen=True)
class Layout:
    """The dimension that holds the images of a tensor, with ``rows`` rows for each.

    Attributes:
        axis: the dimension; None where the tensor is one image's as a whole.
        rows: how long it is for a single image.
        outer: whether the rows of an image are neighbours; else those of all images alternate.
    """

    axis: int | None = 0
    rows: int = 1
    outer: bool = True

    def apart(self, x: Tensor) -> Tensor:
        """A tensor as ``[images, rows, ...]``, or ``[1, ...]`` where it is one image's."""
        if self.axis is None:
            return x.unsqueeze(0)
        x = x.movedim(self.axis, 0)
        rest = x.shape[1:]
        if self.outer:
            return x.reshape(-1, self.rows, *rest)
        return x.reshape(self.rows, -1, *rest).transpose(0, 1)

    def together(self, x: Tensor) -> Tensor:
        """The inverse of `apart`."""
        if self.axis is None:
            return x.squeeze(0)
        x = x if self.outer else x.transpose(0, 1)
        return x.flatten(0, 1).movedim(0, self.axis)


FRONT = Layout()
ALONE = Layout(None)


@dataclass(frozen=True)
class Layouts:
    """What two images show of a network.

    Attributes:
        weights: of the layers that are linear in a weight which nothing else reads, called once.
        inputs: of each call of the layers whose inputs were asked for.
        together: whether images may go through the network together.
    """

    weights: dict[str, Layout]
    inputs: dict[str, list[Layout]]
    together: bool


def layouts(
    model: nn.Module, like: Tensor, weights: Sequence[str] = (), inputs: Sequence[str] = ()
) -> Layouts:
    """See how layers get images, inside `frameworks.twice_differentiable`.

    Args:
        model: its parameters must not require gradients.
        like: images ``[B, ...]``; noise of their shape goes through the network.
        weights: layers whose weights count; those left out of the answer are used otherwise.
        inputs: layers whose inputs count.
    """
    candidates = [name for name in weights if plain(model, name)]
    pair = _noise(model, like)
    with tapped(model, inputs=inputs, outputs=candidates) as taps:
        seen = []
        for x in (pair[:1], pair[1:]):
            taps.clear()
            with torch.no_grad():
                model(x)
            seen.append(({**taps.reads}, {**taps.inputs}))
        taps.clear()
        known = _understood(model, candidates, pair, taps.outputs, taps.reads)
        (read_one, in_one), (read_two, in_two) = seen
        found = {n: _of_layer(model, n, read_one[n], read_two[n], taps.reads[n]) for n in known}
        calls = {n: _of_calls(in_one[n], in_two[n], taps.inputs[n]) for n in inputs}
    together = all(x is not None for x in [*found.values(), *calls.values()])
    return Layouts(
        {n: x or ALONE for n, x in found.items()},
        {n: x or [ALONE] * len(in_one[n]) for n, x in calls.items()},
        together,
    )


def plain(model: nn.Module, name: str) -> bool:
    """Whether a layer's output is linear in a weight that no other layer has."""
    module = model.get_submodule(name)
    weight = module._parameters.get("weight")
    if weight is None or not any(
        isinstance(module, kind) and type(module).forward is forward
        for kind, forward in FORWARDS.items()
    ):
        return False
    if isinstance(module, Read) and weight.dim() > 2:
        return False
    kinds = tuple(FORWARDS)
    return (
        sum(m._parameters.get("weight") is weight and isinstance(m, kinds) for m in model.modules())
        == 1
    )


def is_linear(module: nn.Module) -> bool:
    """Whether a `plain` layer is a linear one; else it is a convolution."""
    return isinstance(module, nn.Linear | Read)


def applied(module: nn.Module, x: Tensor, weight: Tensor) -> Tensor:
    """What a `plain` layer makes of an input with another weight, without bias."""
    if is_linear(module):
        return functional.linear(x, weight)
    assert isinstance(module, nn.Conv1d | nn.Conv2d)
    out: Tensor = module._conv_forward(x, weight, None)
    return out


def _noise(model: nn.Module, like: Tensor) -> Tensor:
    """Two images that have nothing in common, as large as the given ones."""
    parameter = next(model.parameters())
    drawn = torch.randn(2, *like.shape[1:], generator=torch.Generator().manual_seed(0))
    drawn = drawn.to(like.device) * like.float().std(correction=0) + like.float().mean()
    return drawn.to(parameter.device, parameter.dtype)


def _understood(
    model: nn.Module,
    names: Sequence[str],
    pair: Tensor,
    outputs: Mapping[str, Sequence[Tensor]],
    reads: Mapping[str, Sequence[Tensor]],
) -> list[str]:
    """The layers called once whose call explains the whole gradient of their weight.

    It does not where a function reads the weight beside the call.
    """
    parameters = {name: model.get_submodule(name).get_parameter("weight") for name in names}
    for weight in parameters.values():
        weight.requires_grad_()
    try:
        logits = model(pair)
        once = [name for name in names if len(outputs[name]) == 1]
        if not once or not logits.requires_grad:
            return once
        towards = torch.randn(logits.shape, generator=torch.Generator().manual_seed(1)).to(logits)
        tensors = [outputs[n][0] for n in once] + [parameters[n] for n in once]
        found = torch.autograd.grad(
            logits, tensors, towards, allow_unused=True, materialize_grads=True
        )
    finally:
        for weight in parameters.values():
            weight.requires_grad_(False)
    pairs = zip(once, found[: len(once)], found[len(once) :], strict=True)
    return [
        name
        for name, delta, gradient in pairs
        if _close(_own_gradient(model.get_submodule(name), reads[name][0], delta), gradient)
    ]


def _own_gradient(module: nn.Module, read: Tensor, delta: Tensor) -> Tensor:
    weight = module.get_parameter("weight").detach().requires_grad_()
    (gradient,) = torch.autograd.grad(applied(module, read, weight), weight, delta)
    return gradient


def _of_layer(
    model: nn.Module,
    name: str,
    one: Sequence[Tensor],
    two: Sequence[Tensor],
    both: Sequence[Tensor],
) -> Layout | None:
    """The layout of what a layer reads; its output has the same."""
    if len(one) != 1 or len(two) != 1:
        return None
    axes = range(both[0].dim() - 1) if is_linear(model.get_submodule(name)) else range(1)
    return _found(one[0], two[0], both[0], axes)


def _of_calls(
    one: Sequence[Tensor], two: Sequence[Tensor], both: Sequence[Tensor]
) -> list[Layout] | None:
    if not len(one) == len(two) == len(both):
        return None
    found = [_found(a, b, c, range(c.dim())) for a, b, c in zip(one, two, both, strict=True)]
    known = [x for x in found if x is not None]
    return known if len(known) == len(found) else None


def _found(one: Tensor, two: Tensor, both: Tensor, axes: Sequence[int]) -> Layout | None:
    """The layout under which a tensor of two images consists of those of each."""
    if one.shape != two.shape:
        return None
    for layout in _candidates(one.shape, both.shape, axes):
        alone = torch.cat([layout.apart(one), layout.apart(two)])
        if _close(layout.apart(both), alone):
            return layout
    return None


def _candidates(one: Sequence[int], both: Sequence[int], axes: Sequence[int]) -> Iterator[Layout]:
    for axis in axes:
        if len(one) == len(both) and list(both) == [
            n * (1 + (i == axis)) for i, n in enumerate(one)
        ]:
            yield Layout(axis, one[axis])
            if one[axis] > 1:
                yield Layout(axis, one[axis], outer=False)


@torch.no_grad()
def _close(one: Tensor, two: Tensor) -> bool:
    gap, size = float((one - two).norm()), float(torch.maximum(one.norm(), two.norm()))
    return gap <= CLOSE * size
