"""Learned step sizes as published.

Esser et al., "Learned Step Size Quantization", arXiv 1902.08153 (ICLR 2020):

    v_bar = round(clip(v/s, -Q_N, Q_P)),   v_hat = s v_bar                          (equations 1, 2)
    dv_hat/ds = -v/s + round(v/s) inside, -Q_N below, Q_P above                       (equation 3)
    dv_hat/dv = 1 inside, 0 outside                                                   (equation 5)

with Q_N = 0, Q_P = 2^b - 1 for data that are never negative and Q_N = 2^(b-1), Q_P = 2^(b-1) - 1
for others; the step's gradient is multiplied by g = 1 / sqrt(n Q_P), n the elements that share the
step (section 2.2). The step starts at 2 E|v| / sqrt(Q_P) (section 2.1), on the weights and on the
calibration sample in the place of the first batch. One step per layer for weights and one for
activations.

The grid and its gradients are those of `frameworks.core.quantizers.uniform`. n counts the whole
batch for activations, as implementations commonly do; the paper's N_F can also be read as the
features of one image, which makes a step's learning rate sqrt(batch) larger. One bit, for which
Q_P is 0, has the two levels -s/2 and s/2 and takes Q_P as 1, so that it starts at -E|v| and E|v|.
"""

from __future__ import annotations

import math
from typing import ClassVar

from torch import Tensor

from frameworks.core.quantizers.base import Quantizer, Scheme
from frameworks.core.quantizers.uniform import SMALLEST_STEP, UniformQuantizer, symmetric_grid
from frameworks.core.registry import register_scheme


def lsq_step(values: Tensor, q_max: int) -> Tensor:
    """LSQ's first step, 2 E|v| / sqrt(Q_P); a scalar."""
    return (2 * values.detach().abs().mean() / math.sqrt(max(q_max, 1))).clamp_min(SMALLEST_STEP)


@register_scheme
class Lsq(Scheme):
    """Steps per layer, started from the mean absolute value and learned."""

    name: ClassVar[str] = "lsq"

    def weight_quantizer(self, weight: Tensor, bits: int) -> Quantizer:
        q_min, q_max, offset = symmetric_grid(bits)
        return UniformQuantizer(lsq_step(weight, q_max), q_min, q_max, offset)

    def activation_quantizer(self, sample: Tensor, bits: int) -> Quantizer:
        if bool(sample.min() < 0):
            return self.weight_quantizer(sample, bits)
        q_max = 2**bits - 1
        return UniformQuantizer(lsq_step(sample, q_max), 0, q_max)
