"""HAQ's linear quantizers.

Wang et al., "HAQ: Hardware-Aware Automated Quantization with Mixed Precision", arXiv 1811.08886,
section 3.3, and its released code:

    weights      w_q = round(clamp(w, -c, c) / s) s,   s = c / (2^(b-1) - 1)        (equations 4, 5)
    activations  x_q = round(clamp(x, 0, c) / s) s,    s = c / (2^b - 1)

per layer. The paper chooses c by the least divergence between w and w_q. The released code does so
for b < 5 and takes max|w| otherwise (`divergence_clip`); for activations min(6, max|x|, that clip).
With P the cumulative histogram of |w| over N = sqrt(n) bins of width h, it tries each cut i from
2^(b-1) + 1 to N: P_i is P with 1 from bin i on; its first i values are interpolated linearly down
to 2^(b-1) points and back, which gives Q_i; the cost is the Jeffreys form
sum (P - Q_i) log2(P / Q_i), and c = (i + 1/2) h at the least cost.

The gradient to weights is the identity everywhere and c stays as calibrated; that of activations
is the clip's, and their c is learned in PACT's form. Inputs with negative values are clamped to
[-c, c] with s = c / (2^(b-1) - 1), as in the released code without half wave. HAQ searches 2 to 8
bits; for one bit the two levels are -E|x| and E|x|.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from frameworks.core.quantizers.base import Codes, Quantizer, Scheme, straight_through
from frameworks.core.quantizers.pact import Pact
from frameworks.core.quantizers.uniform import SMALLEST_STEP
from frameworks.core.registry import register_scheme

Array = npt.NDArray[np.float64]
MAX_BITS_BY_DIVERGENCE = 4
LARGEST_ACTIVATION = 6.0


def _coarsened(p: Array, points: int) -> Array:
    """Linear interpolation down to some points and back."""
    fine, coarse = np.linspace(0, 1, len(p)), np.linspace(0, 1, points)
    back: Array = np.interp(fine, coarse, np.interp(coarse, fine, p))
    return back


def _jeffreys(p: Array, q: Array) -> float:
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = (p - q) * np.log2(p / q)
    # Leading empty bins: 0 log(0/0), which has the limit 0.
    return float(np.where(p == q, 0.0, terms).sum())


def divergence_clip(values: Tensor, bits: int) -> float:
    """The clip c of least divergence between the distributions of |v| and its b-bit version."""
    sizes = values.detach().abs().flatten().double().cpu().numpy()
    reach = float(sizes.max())
    if np.isclose(reach, 0.0):
        return 0.0
    counts, edges = np.histogram(sizes, bins="sqrt", range=(0.0, reach))
    cumulative = np.cumsum(counts / counts.sum())
    points = 2 ** (bits - 1)
    costs = {}
    for cut in range(points + 1, len(counts) + 1):
        p = cumulative.copy()
        p[cut - 1 :] = 1
        p[:cut] = _coarsened(p[:cut], points)
        cost = _jeffreys(cumulative, p)
        if np.isfinite(cost):
            costs[cut] = cost
    if not costs:  # fewer bins than levels, or no value near zero
        return reach
    return (min(costs, key=costs.__getitem__) + 0.5) * float(edges[1] - edges[0])


class LinearWeight(Quantizer):
    """Symmetric linear weights with a fixed threshold.

    Args:
        threshold: positive c, a scalar or broadcastable to the weight, ``[C, 1, ...]`` per kernel;
            for one bit the size of the two levels.
        bits: bit width.
    """

    threshold: Tensor

    def __init__(self, threshold: Tensor, bits: int) -> None:
        super().__init__()
        self.register_buffer("threshold", threshold.detach().clamp_min(SMALLEST_STEP).clone())
        self.bits = bits

    def forward(self, x: Tensor) -> Tensor:
        return straight_through(x, self.codes(x).dequantize())

    @torch.no_grad()
    def codes(self, x: Tensor) -> Codes:
        if self.bits == 1:
            return Codes((x >= 0).to(x.dtype), 2 * self.threshold, x.new_tensor(-0.5))
        levels = 2 ** (self.bits - 1) - 1
        step = self.threshold / levels
        return Codes((x / step).clamp_(-levels, levels).round_(), step, x.new_zeros(()))


@register_scheme
class HaqLinear(Scheme):
    """Symmetric weights with a calibrated threshold, half-wave activations with a learned one."""

    name: ClassVar[str] = "haq_linear"

    def weight_quantizer(self, weight: Tensor, bits: int) -> Quantizer:
        sizes = weight.detach().abs()
        if bits == 1:
            return LinearWeight(sizes.mean(), bits)
        if bits > MAX_BITS_BY_DIVERGENCE:
            return LinearWeight(sizes.max(), bits)
        return LinearWeight(weight.new_tensor(divergence_clip(weight, bits)), bits)

    def activation_quantizer(self, sample: Tensor, bits: int) -> Quantizer:
        sample = sample.detach()
        signed = bool(sample.min() < 0)
        if signed and bits == 1:
            return Pact(sample.abs().mean(), bits, signed)
        clip = min(LARGEST_ACTIVATION, float(sample.abs().max()))
        # The released code gives two-sided inputs one bit less here: the sign has the other.
        magnitude = bits - 1 if signed else bits
        if magnitude <= MAX_BITS_BY_DIVERGENCE:
            clip = min(clip, divergence_clip(sample, magnitude))
        return Pact(sample.new_tensor(max(clip, SMALLEST_STEP)), bits, signed)
