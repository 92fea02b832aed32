"""The levels that the weights of a layer may take."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from frameworks.core.policy import FLOAT, PRUNED, Bits
from frameworks.core.quantizers.base import Scheme


@dataclass(frozen=True)
class Levels:
    """A uniform grid for each weight: step * (code + offset), low <= code <= high.

    All have the shape of the weights, rows being output channels.
    """

    step: Tensor
    low: Tensor
    high: Tensor
    offset: Tensor

    def value(self, code: Tensor) -> Tensor:
        """The weights that codes stand for."""
        return self.step * (code + self.offset)

    def place(self, weight: Tensor) -> Tensor:
        """Where weights lie on the grid, in codes that need not be whole."""
        return weight / self.step - self.offset

    def nearest(self, weight: Tensor) -> Tensor:
        """The codes of the nearest levels."""
        return self.place(weight).clamp(self.low, self.high).round()

    def kept(self, mask: Tensor) -> Levels:
        """The same where a mask is true; elsewhere, the level nearest to 0 alone."""
        zero = self.nearest(torch.zeros_like(self.step))
        low, high = (torch.where(mask, end, zero) for end in (self.low, self.high))
        return Levels(self.step, low, high, self.offset)

    def view(self, *shape: int) -> Levels:
        """The same in another shape."""
        return Levels(*(x.reshape(shape) for x in (self.step, self.low, self.high, self.offset)))


def levels_of(scheme: Scheme, weight: Tensor, bits: Bits) -> Levels | None:
    """The levels of a weight tensor at some bits; None for those without a uniform grid.

    They are those of `frameworks.QModel.fix`: with bits per channel, the ranges of each bit width
    are of the whole tensor. A grid that does not say how far it goes ends where its codes do.
    """
    if isinstance(bits, int):
        return None if bits in (FLOAT, PRUNED) else _of(scheme, weight, bits)
    if FLOAT in bits:
        return None
    whole = {value: _of(scheme, weight, value) for value in set(bits) - {PRUNED}}
    parts = [torch.ones_like(weight), *(torch.zeros_like(weight) for _ in range(3))]
    each = torch.tensor(bits, device=weight.device)
    for value, found in whole.items():
        if found is None:
            return None
        rows = each == value
        for part, source in zip(
            parts, (found.step, found.low, found.high, found.offset), strict=True
        ):
            part[rows] = source[rows]
    return Levels(*parts)


def _of(scheme: Scheme, weight: Tensor, bits: int) -> Levels | None:
    quantizer = scheme.weight(weight, bits)
    codes = quantizer.codes(weight)
    if codes.codebook is not None:
        return None
    stated = quantizer.code_range()
    ends = weight.new_tensor(stated) if stated else torch.stack(codes.code.aminmax())
    every = (codes.scale, *ends, codes.offset)
    return Levels(*(x.detach().to(weight).expand_as(weight) for x in every))
