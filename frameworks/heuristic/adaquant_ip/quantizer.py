"""The quantizer of AdaQuant with integer programming (arXiv 2006.10518, released code).

Asymmetric, weights by a range for each output channel, activations by one for the tensor. With l
and h the least and largest value, 0 among them, and n = 2^b - 1,

    s = (h - l) / n,    z = clip(round(-l / s), 0, n)
    x_hat = s (round(clip(x / s + z, 0, n)) - z).

Gradients pass straight through within the range. The ranges are trained by AdaQuant alone.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from frameworks.core.quantizers.base import Codes, Grid, Quantizer, Scheme, straight_through
from frameworks.core.quantizers.uniform import per_channel
from frameworks.core.registry import register_scheme

NARROWEST = 1e-6


class ZeroPointQuantizer(Quantizer):
    """A grid between two ends, with 0 on it.

    Args:
        low, high: the ends, scalars or broadcastable to the tensor.
        bits: b.
    """

    step: Tensor
    zero: Tensor

    def __init__(self, low: Tensor, high: Tensor, bits: int) -> None:
        super().__init__()
        self.levels = 2**bits - 1
        low, high = low.detach().clamp_max(0), high.detach().clamp_min(0)
        width = torch.where(high > low, high - low, torch.ones_like(low)).clamp_min(NARROWEST)
        self.register_buffer("step", width / self.levels)
        self.register_buffer("zero", (-low / self.step).round().clamp(0, self.levels))

    def forward(self, x: Tensor) -> Tensor:
        place = (x / self.step + self.zero).clamp(0, self.levels)
        return self.step * (straight_through(place, place.round()) - self.zero)

    def codes(self, x: Tensor) -> Codes:
        code = (x.detach() / self.step + self.zero).clamp(0, self.levels).round()
        return Codes(code, self.step, -self.zero)

    def code_range(self) -> tuple[int, int]:
        return 0, self.levels

    def uniform_grid(self) -> Grid | None:
        if self.step.numel() > 1:
            return None
        return Grid(float(self.step), 0, self.levels, -float(self.zero))


@register_scheme
class CalibTIPScheme(Scheme):
    """Asymmetric min-max ranges that have 0 in them."""

    name: ClassVar[str] = "calibtip"

    def weight_quantizer(self, weight: Tensor, bits: int) -> Quantizer:
        rows = weight.detach().flatten(1)
        low, high = (per_channel(end, weight) for end in (rows.amin(1), rows.amax(1)))
        return ZeroPointQuantizer(low, high, bits)

    def activation_quantizer(self, sample: Tensor, bits: int) -> Quantizer:
        return ZeroPointQuantizer(sample.detach().min(), sample.detach().max(), bits)
