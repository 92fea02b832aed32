"""What rounding needs of a layer's data: second moments of its inputs, and with its outputs.

A layer is linear in its weights: every output is w . p, with w the weights of one output channel
and p the patch of the input that it is applied to. So the squared error of outputs over all data is

    E (w . p - y)^2 = w A w - 2 w . b + c,    A = E p p^T,  b = E y p,  c = E y^2,

and these moments are all that is kept.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call

from frameworks.core.networks.qlayer import QLayer

CHUNK = 1 << 27
"""Bytes of the patches that are unfolded at a time."""


@dataclass(frozen=True)
class LayerMoments:
    """Second moments over all positions of all images, in double precision.

    G is the number of groups, n the weights of one output channel, R the channels of a group.

    Attributes:
        inputs: A, ``[G, n, n]``.
        both: b, ``[G, R, n]``.
        outputs: c, ``[G, R]``.
        mean_input: ``[G, n]``.
        mean_output: ``[G, R]``.
    """

    inputs: Tensor
    both: Tensor
    outputs: Tensor
    mean_input: Tensor
    mean_output: Tensor

    def centred(self) -> LayerMoments:
        """The moments about the means: those of a layer whose bias is free."""
        x, y = self.mean_input, self.mean_output
        return LayerMoments(
            self.inputs - x[..., :, None] * x[..., None, :],
            self.both - y[..., :, None] * x[..., None, :],
            self.outputs - y.square(),
            torch.zeros_like(x),
            torch.zeros_like(y),
        )

    def error(self, weight: Tensor) -> Tensor:
        """The mean squared error of each output channel ``[G, R]`` with weights ``[G, R, n]``."""
        squares = (weight @ self.inputs * weight).sum(-1)
        return squares - 2 * (weight * self.both).sum(-1) + self.outputs

    def shift(self, weight: Tensor) -> Tensor:
        """By how much the mean output is off ``[G, R]``."""
        return (weight * self.mean_input[:, None]).sum(-1) - self.mean_output


def patches(inner: nn.Module, groups: int, x: Tensor) -> Tensor:
    """What each output position of a layer sees: ``[G, n, positions]``.

    The layer itself unfolds its input: with unit weights its outputs are the parts of the patch,
    whatever its padding, stride or dilation.
    """
    weight = inner.weight
    assert isinstance(weight, Tensor)
    count = weight[0].numel()
    unit = torch.eye(count, dtype=x.dtype, device=x.device).reshape(count, *weight.shape[1:])
    given = {"weight": unit.repeat(groups, *(1,) * (unit.dim() - 1))}
    if getattr(inner, "bias", None) is not None:
        given["bias"] = x.new_zeros(groups * count)
    out: Tensor = functional_call(inner, given, (x,))
    return rows(out, weight.dim() == 2).reshape(groups, count, -1)


def rows(out: Tensor, linear: bool) -> Tensor:
    """A layer's output as ``[channels, positions]``."""
    return out.reshape(-1, out.shape[-1]).T if linear else out.transpose(0, 1).flatten(1)


class Gathered:
    """Moments that are summed up over images.

    Args:
        layer: a quantized layer.
    """

    def __init__(self, layer: QLayer) -> None:
        self.layer, self.groups = layer, layer.layer.groups
        self.count = 0
        self._sums: list[Tensor] = []

    @torch.no_grad()
    def add(self, x: Tensor, y: Tensor) -> None:
        """Add a batch: what the layer multiplies its weights with, and what it ought to give."""
        inner = self.layer.inner
        weight = inner.weight
        assert isinstance(weight, Tensor)
        bias = getattr(inner, "bias", None)
        each = weight[0].numel() * self.groups * max(1, y[0].numel() // len(weight)) * x.itemsize
        size = max(1, CHUNK // max(1, each))
        for part, wanted in zip(torch.split(x, size), torch.split(y, size), strict=True):
            p = patches(inner, self.groups, part).double()
            t = rows(wanted, weight.dim() == 2).double()
            if bias is not None:
                t = t - bias.detach().double()[:, None]
            t = t.reshape(self.groups, -1, t.shape[-1])
            found = [
                p @ p.transpose(1, 2),
                t @ p.transpose(1, 2),
                t.square().sum(-1),
                p.sum(-1),
                t.sum(-1),
            ]
            self.count += p.shape[-1]
            had = self._sums or [torch.zeros_like(one) for one in found]
            self._sums = [a + b for a, b in zip(had, found, strict=True)]

    def moments(self) -> LayerMoments:
        """The moments of what was added."""
        return LayerMoments(*(x / self.count for x in self._sums))
