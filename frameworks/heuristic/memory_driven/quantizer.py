"""The quantizer of memory-driven mixed precision (arXiv 1905.13082, released code).

Weights have a range for each output channel, that of the weights as they are at each step, so that
it follows them through a training; with l and h their least and largest value and n = 2^b - 1,

    s = (h - l) / n  (1 / n where h = l),    z = round(l / s)
    q = clip(round(w / s) - z, 0, n),        w_hat = s (q + z)

and gradients pass straight through. Activations are PACT's (arXiv 1805.06085): unsigned in
[0, clip] with a learned clip and no zero point; two-sided where inputs have negative values.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from frameworks.core.quantizers.base import Codes, Quantizer, Scheme, straight_through
from frameworks.core.quantizers.pact import calibrated_pact
from frameworks.core.quantizers.uniform import per_channel
from frameworks.core.registry import register_scheme


class PresentRange(Quantizer):
    """An asymmetric grid for each output channel, between the ends of what it is given.

    Args:
        bits: b.
    """

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.levels = 2**bits - 1

    def forward(self, x: Tensor) -> Tensor:
        return straight_through(x, self.codes(x).dequantize())

    @torch.no_grad()
    def codes(self, x: Tensor) -> Codes:
        rows = x.detach().flatten(1)
        low, high = rows.amin(1), rows.amax(1)
        width = torch.where(high > low, high - low, torch.ones_like(low))
        step = per_channel(width / self.levels, x)
        zero = per_channel(low, x).div(step).round()
        return Codes((x.detach() / step).round().sub(zero).clamp(0, self.levels), step, zero)

    def code_range(self) -> tuple[int, int]:
        return 0, self.levels


@register_scheme
class RusciScheme(Scheme):
    """Asymmetric weights per output channel by their present ends; PACT activations."""

    name: ClassVar[str] = "rusci"

    def weight_quantizer(self, weight: Tensor, bits: int) -> Quantizer:
        return PresentRange(bits)

    def activation_quantizer(self, sample: Tensor, bits: int) -> Quantizer:
        return calibrated_pact(sample, bits)
