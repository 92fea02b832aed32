"""EdMIPS's quantizers: half-wave Gaussian activations and mid-rise Gaussian weights.

Cai et al., "Deep Learning with Low Precision by Half-wave Gaussian Quantization", arXiv 1702.00953,
and Cai and Vasconcelos, "Rethinking Differentiable Search for Mixed-Precision Neural Networks",
arXiv 2004.05795 (EdMIPS), whose released code fixes the steps. With g_b and h_b from the table
``gaussian_steps.json``, optimal for standard Gaussian data:

    weights      s = g_b std(w):   w_q = clip( (round(w/s + 1/2) - 1/2) s, ±(2^(b-1) - 1/2) s )
    activations  s = h_b sigma:    x_q = s round( clip(x, 0, (2^b - 1) s) / s )

Weights have no zero level; std(w) is over the layer's current weights and counts as a constant.
Their gradient is the identity everywhere, also where clipped; that of activations is 1 inside the
clip and 0 outside.

The released table ends at 4 bits. Its steps are the ones of least squared error on N(0, 1): for
weights over the 2^b levels above, for activations over s, 2s, ..., (2^b - 1) s with every positive
value sent to a positive level (so 0.799 is E|x|, although rounding sends values under s/2 to 0).
The steps of 5 to 8 and 16 bits come from the same two definitions.

EdMIPS quantizes behind BatchNorm, where inputs have unit variance, and needs no sigma. In a
pretrained network they do not, so sigma is measured on the calibration sample: the root mean
square of the positive values, which is 1 for a half-wave standard Gaussian. Inputs with negative
values (images, attention; left float in EdMIPS) take the weights' levels with their standard
deviation at calibration, and the clip's gradient. No range is learned.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import ClassVar, Literal

import torch
from torch import Tensor

from frameworks.core.quantizers.base import Codes, Quantizer, Scheme, straight_through
from frameworks.core.quantizers.uniform import SMALLEST_STEP, UniformQuantizer
from frameworks.core.registry import register_scheme

TABLE = Path(__file__).with_name("gaussian_steps.json")


@cache
def _table() -> dict[str, dict[str, float]]:
    table: dict[str, dict[str, float]] = json.loads(TABLE.read_text())
    return table


def gaussian_step(kind: Literal["weight", "activation"], bits: int) -> float:
    """The step for standard Gaussian weights or half-wave activations.

    Raises:
        ValueError: the table has no such bit width.
    """
    steps = _table()[kind]
    if str(bits) not in steps:
        raise ValueError(f"no Gaussian step for {bits} bits; choose from {', '.join(steps)}")
    return steps[str(bits)]


def _deviation(x: Tensor) -> Tensor:
    """Standard deviation; of a single value, its size."""
    spread = x.std() if x.numel() > 1 else x.abs().sum()
    return spread.clamp_min(SMALLEST_STEP)


class GaussianWeight(Quantizer):
    """Mid-rise levels scaled by the standard deviation of the current weights."""

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.bits, self.unit_step = bits, gaussian_step("weight", bits)

    def forward(self, x: Tensor) -> Tensor:
        return straight_through(x, self.codes(x).dequantize())

    @torch.no_grad()
    def codes(self, x: Tensor) -> Codes:
        half = 2 ** (self.bits - 1)
        step = self.unit_step * _deviation(x)
        code = torch.round(x / step + 0.5).sub_(1).clamp_(-half, half - 1)
        return Codes(code, step, x.new_tensor(0.5))


@register_scheme
class HalfWaveGaussian(Scheme):
    """Fixed Gaussian-optimal steps per layer, for weights and activations."""

    name: ClassVar[str] = "hwgq"

    def weight_quantizer(self, weight: Tensor, bits: int) -> Quantizer:
        return GaussianWeight(bits)

    def activation_quantizer(self, sample: Tensor, bits: int) -> Quantizer:
        sample = sample.detach()
        if bool(sample.min() < 0):
            half = 2 ** (bits - 1)
            step = gaussian_step("weight", bits) * _deviation(sample)
            return UniformQuantizer(step, -half, half - 1, 0.5, learned=False)
        positive = sample[sample > 0]
        sigma = positive.square().mean().sqrt() if len(positive) else sample.new_ones(())
        step = gaussian_step("activation", bits) * sigma.clamp_min(SMALLEST_STEP)
        return UniformQuantizer(step, 0, 2**bits - 1, learned=False)
