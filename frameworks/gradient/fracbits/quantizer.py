"""FracBits' quantizers: DoReFa's weights, and activations clipped as by SAT.

Yang and Jin, arXiv 2007.02017, as released (deJQK/FracBits, the plain variant). Weights are those
of `frameworks.core.quantizers.dorefa`, at one bit too (the two ends -1 and 1 of the same formula).
Activations have PACT's learned clip with the gradient of Jin et al., "Towards Efficient Training
for Neural Network Quantization" (SAT), arXiv 1912.10207:

    u = clip(x / alpha, 0, 1),    y = alpha round((2^b - 1) u) / (2^b - 1),
    dy/dalpha = y / alpha - u  inside,   1  above;      dy/dx = 1  inside,   0  outside

(PACT itself has 0 inside). Inputs with negative values are clipped on both sides, u =
(clip(x / alpha, -1, 1) + 1) / 2 and y = alpha (2 q(u) - 1), so that 0 is no level.

The paper starts alpha at 8; here it starts at the clip of least squared error on the calibration
sample, and weights are multiplied by max|w| as in the DoReFa scheme, so that both serve pretrained
networks and short or no training.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from frameworks.core.quantizers.base import Codes, Grid, Quantizer, Scheme
from frameworks.core.quantizers.dorefa import DoReFaWeight
from frameworks.core.quantizers.grid import fake_quantize
from frameworks.core.quantizers.uniform import SMALLEST_STEP, mse_step
from frameworks.core.registry import register_scheme


def clip_grid(bits: int, signed: bool) -> tuple[float, float, float, float]:
    """Smallest and largest code, offset, and how many steps alpha is.

    The codes of signed data are those of ``2 q(u) - 1``, half a step off zero.
    """
    top = 2.0**bits - 1
    return (-(top + 1) / 2, (top - 1) / 2, 0.5, top / 2) if signed else (0.0, top, 0.0, top)


class CalibratedClip(Quantizer):
    """Clips at a learned alpha and rounds to b bits (see the module's formulas).

    Args:
        alpha: positive clipping value, a scalar. Quantizers of one tensor at several bits may have
            the same parameter.
        bits: bit width.
        signed: clip on both sides.
    """

    alpha: nn.Parameter

    def __init__(self, alpha: Tensor, bits: int, signed: bool) -> None:
        super().__init__()
        self.alpha = nn.Parameter(alpha.detach().clone().view(()), requires_grad=False)
        self._grid = clip_grid(bits, signed)

    def forward(self, x: Tensor) -> Tensor:
        low, high, offset, steps = self._grid
        return fake_quantize(x, self.alpha / steps, low, high, offset, 1.0, SMALLEST_STEP)

    def uniform_grid(self) -> Grid:
        low, high, offset, steps = self._grid
        step = (self.alpha.detach() / steps).clamp_min(SMALLEST_STEP)
        return Grid(float(step), int(low), int(high), offset)

    @torch.no_grad()
    def codes(self, x: Tensor) -> Codes:
        low, high, offset, steps = self._grid
        step = (self.alpha / steps).clamp_min(SMALLEST_STEP)
        return Codes((x / step - offset).clamp(low, high).round(), step, step.new_tensor(offset))


@register_scheme
class FracBitsScheme(Scheme):
    """DoReFa weights per layer, activations with a learned clip per layer."""

    name: ClassVar[str] = "fracbits"

    def weight_quantizer(self, weight: Tensor, bits: int) -> Quantizer:
        return DoReFaWeight(bits, weight.detach().abs().max(), mean_sign=False)

    def activation_quantizer(self, sample: Tensor, bits: int) -> Quantizer:
        sample = sample.detach()
        signed = bool(sample.min() < 0)
        low, high, offset, steps = clip_grid(bits, signed)
        start = (sample.abs().max() / steps).clamp_min(SMALLEST_STEP)
        step = mse_step(sample[None], start.view(1, 1), int(low), int(high), offset)
        return CalibratedClip(step * steps, bits, signed)
