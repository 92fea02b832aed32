"""DoReFa weights with PACT activations.

Zhou et al., "DoReFa-Net: Training Low Bitwidth Convolutional Neural Networks with Low Bitwidth
Gradients", arXiv 1606.06160, equations 5 to 9. With quantize_b(u) = round((2^b - 1) u) / (2^b - 1):

    w_b = 2 quantize_b( tanh(w) / (2 max|tanh(w)|) + 1/2 ) - 1        (b > 1)
    w_1 = sign(w) E|w|

per layer. The gradient passes straight through the rounding and through the tanh and its maximum
as they are; at one bit it passes straight through the sign, and E|w| counts as a constant.

DoReFa trains from scratch and its w_b fills [-1, 1] whatever the size of w. The scheme multiplies
it by a constant per layer, max|w| at calibration, so that a pretrained network starts near its
float weights. Under BatchNorm this changes nothing (the factor cancels in the output and in the
gradient to w); layers without it would start with outputs of the wrong size.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from frameworks.core.quantizers.base import Codes, Quantizer, Scheme, straight_through
from frameworks.core.quantizers.pact import calibrated_pact
from frameworks.core.quantizers.uniform import SMALLEST_STEP
from frameworks.core.registry import register_scheme


class DoReFaWeight(Quantizer):
    """DoReFa's weight quantizer (see the module's formulas).

    Args:
        bits: bit width.
        scale: constant factor on the result for more than one bit; a scalar, 1 as published.
        mean_sign: whether one bit is w_1 above; if not, it is the case b = 1 of the first formula,
            with the levels -scale and scale.
    """

    scale: Tensor

    def __init__(self, bits: int, scale: Tensor | float = 1.0, *, mean_sign: bool = True) -> None:
        super().__init__()
        self.bits = bits
        self.sign = mean_sign and bits == 1
        self.register_buffer("scale", torch.as_tensor(scale).detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        if self.sign:
            return straight_through(x, self.codes(x).dequantize())
        unit = torch.tanh(x)
        unit = unit / unit.abs().max().clamp_min(SMALLEST_STEP) * self.scale
        return straight_through(unit, self.codes(x).dequantize())

    @torch.no_grad()
    def codes(self, x: Tensor) -> Codes:
        if self.sign:
            return Codes((x >= 0).to(x.dtype), 2 * x.abs().mean(), x.new_tensor(-0.5))
        levels = 2**self.bits - 1
        unit = torch.tanh(x)
        unit = unit / (2 * unit.abs().max().clamp_min(SMALLEST_STEP)) + 0.5
        return Codes(torch.round(levels * unit), self.scale * 2 / levels, x.new_tensor(-levels / 2))


@register_scheme
class DoReFaPact(Scheme):
    """DoReFa weights per layer, PACT activations with a learned clip per layer."""

    name: ClassVar[str] = "dorefa_pact"

    def weight_quantizer(self, weight: Tensor, bits: int) -> Quantizer:
        return DoReFaWeight(bits, weight.detach().abs().max())

    def activation_quantizer(self, sample: Tensor, bits: int) -> Quantizer:
        return calibrated_pact(sample, bits)
