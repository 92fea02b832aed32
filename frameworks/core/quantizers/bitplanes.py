"""Weights as trained bit planes.

BSQ (Yang et al., arXiv 2102.10462, section 3). An n-bit weight is a scale times a sum of planes of
bits, positive and negative ones apart, each bit a trained number in [0, 2]:

    R = sum_b (p_b - n_b) 2^b / (2^n - 1),   W = s round((2^n - 1) clip(R, -1, 1)) / (2^n - 1)

Rounding (and clipping) has the gradient of the identity, so dL/dp_b = s 2^b / (2^n - 1) dL/dW and
dL/dn_b is its negative (equation 3). s is trained too.

- Re-quantization (section 3.3): the signed sums are rounded to integers and split into exact
  binary planes again; a sum beyond 2^n - 1 takes one more plane, at most as many as at first.
- Precision adjustment: planes of zeros are stripped, the most significant first and then the least
  significant, and s is changed so that no weight changes: with s / (2^n - 1) the step, stripping
  a most significant plane keeps the step, stripping a least significant one doubles it.
- One plane is kept; if it is all zeros, the layer has 0 bits.

Bits: n planes and a sign have the 2^(n+1) - 1 levels of n + 1 bits, and are counted so here; the
paper does not count the sign. The scheme ``bsq`` gives b-bit weights b - 1 planes accordingly.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from frameworks.core.quantizers.base import Codes, Quantizer, Scheme, straight_through
from frameworks.core.quantizers.pact import calibrated_pact
from frameworks.core.quantizers.uniform import SMALLEST_STEP, MinMax
from frameworks.core.registry import register_scheme

LARGEST = 2.0
"""Upper end of a trained bit."""


def to_planes(code: Tensor, count: int) -> Tensor:
    """Binary planes ``[count, ...]`` of non-negative integers, the least significant first."""
    planes = [torch.floor(code / 2**b) % 2 for b in range(count)]
    return torch.stack(planes)


def from_planes(planes: Tensor) -> Tensor:
    """``sum_b 2^b plane_b`` of planes ``[n, ...]``, which need not be binary."""
    weights = 2.0 ** torch.arange(len(planes), dtype=planes.dtype, device=planes.device)
    total: Tensor = torch.tensordot(weights, planes, 1)
    return total


class BitPlanes(Quantizer):
    """A layer's weight as planes; it stands in the place of the layer's weight quantizer.

    The float weight that comes in is not read: the planes hold the weight.

    Args:
        code: signed integers, the weight in steps.
        step: the step, a scalar or per output channel ``[C, 1, ...]``.
        planes: how many planes; larger codes saturate. Re-quantization never goes beyond it.
        mask: 0 where a pruned weight stays 0, in the shape of the weight; None if it is not pruned.
    """

    entries: Tensor | None

    positive: nn.Parameter
    negative: nn.Parameter
    scale: nn.Parameter

    def __init__(self, code: Tensor, step: Tensor, planes: int, mask: Tensor | None = None) -> None:
        super().__init__()
        self.most = planes
        self.register_buffer("entries", mask, persistent=False)
        self.scale = nn.Parameter(step.detach().clone() * (2**planes - 1))
        self._split(code.detach(), planes)

    @classmethod
    def of(cls, weight: Tensor, planes: int, mask: Tensor | None = None) -> BitPlanes:
        """The planes of a float weight under dynamic scaling, s = max|W| (section 3.1)."""
        step = (weight.detach().abs().max() / (2**planes - 1)).clamp_min(SMALLEST_STEP)
        return cls(torch.round(weight.detach() / step), step, planes, mask)

    @classmethod
    def coded(
        cls, weight: Tensor, quantizer: Quantizer, planes: int, mask: Tensor | None = None
    ) -> BitPlanes:
        """The planes of a weight's codes; as `of` if their grid is not uniform or has no zero."""
        codes = quantizer.codes(weight.detach())
        if codes.codebook is not None or bool(codes.offset.any()):
            return cls.of(weight, planes, mask)
        return cls(codes.code, codes.scale, planes, mask)

    @property
    def count(self) -> int:
        """Number of planes n."""
        return len(self.positive)

    @property
    def step(self) -> Tensor:
        """The weight of the least significant bit, ``s / (2^n - 1)``."""
        levels: int = 2**self.count - 1
        return self.scale.detach() / levels

    @property
    def bits(self) -> int:
        """Bits of the re-quantized weight with its sign; 0 if all weights are 0."""
        return self.count + 1 if bool(self.integers().any()) else 0

    def _split(self, code: Tensor, planes: int) -> None:
        code = code.clamp(-(2**planes - 1), 2**planes - 1)
        self.positive = nn.Parameter(to_planes(code.clamp_min(0), planes))
        self.negative = nn.Parameter(to_planes((-code).clamp_min(0), planes))

    def _sums(self) -> Tensor:
        """The signed sums of the planes; what is pruned is 0 and gets no gradient."""
        sums = from_planes(self.positive - self.negative)
        return sums if self.entries is None else sums * self.entries

    @torch.no_grad()
    def integers(self) -> Tensor:
        """The signed sums of the planes, rounded; they may exceed ``2^n - 1`` while training."""
        return torch.round(self._sums())

    def forward(self, x: Tensor) -> Tensor:
        levels = 2**self.count - 1
        total = self._sums() / levels
        code = torch.round(total.detach().clamp(-1, 1) * levels) / levels
        return self.scale * straight_through(total, code)

    @torch.no_grad()
    def codes(self, x: Tensor) -> Codes:
        levels = 2**self.count - 1
        code = self.integers().clamp(-levels, levels)
        return Codes(code, self.step, torch.zeros_like(self.step))

    def group_lasso(self) -> Tensor:
        """``sum_b sqrt(1e-8 + ||[p_b; n_b]||^2)`` (equation 4); a scalar."""
        squares = self.positive.square() + self.negative.square()
        return torch.sqrt(1e-8 + squares.flatten(1).sum(1)).sum()

    @torch.no_grad()
    def clamp_(self) -> None:
        """Keep every trained bit in [0, 2]; to be called after each step of the optimizer."""
        self.positive.clamp_(0, LARGEST)
        self.negative.clamp_(0, LARGEST)

    @torch.no_grad()
    def requantize(self) -> None:
        """Exact binary planes again, with one more plane if a sum has outgrown them."""
        code, planes, step = self.integers(), self.count, self.step
        if planes < self.most and float(code.abs().max()) > 2**planes - 1:
            planes += 1
            self.scale.copy_(step * (2**planes - 1))
        self._split(code, planes)

    @torch.no_grad()
    def adjust(self) -> None:
        """Strip planes of zeros at both ends; no weight changes. The planes must be binary."""
        used = (self.positive - self.negative).flatten(1).any(1).tolist()
        low, high, step = 0, len(used), self.step
        while high > 1 and not used[high - 1]:
            high -= 1
        while high - low > 1 and not used[low]:
            low += 1
        self.positive = nn.Parameter(self.positive[low:high].clone())
        self.negative = nn.Parameter(self.negative[low:high].clone())
        self.scale.copy_(step * 2**low * (2**self.count - 1))


class SignMagnitude(Quantizer):
    """``s round((2^n - 1) clip(w / s_0, -1, 1)) / (2^n - 1)`` with n = b - 1 and s from s_0 on.

    The float weight is trained under a fixed number of planes, and the scale s with it; s_0 is
    what s was at first. The gradient of the weight is that of the identity.
    """

    unit: Tensor

    def __init__(self, scale: Tensor, bits: int) -> None:
        super().__init__()
        self.levels = 2 ** (bits - 1) - 1
        self.scale = nn.Parameter(scale.detach().clone().view(()), requires_grad=False)
        self.register_buffer("unit", self.scale.detach().clone())

    @torch.no_grad()
    def set_step(self, step: float) -> None:
        """Start over from the scale at which neighbouring levels are ``step`` apart."""
        self.scale.fill_(step * self.levels)
        self.unit.fill_(step * self.levels)

    def forward(self, x: Tensor) -> Tensor:
        ratio = x / self.unit
        code = torch.round(ratio.detach().clamp(-1, 1) * self.levels)
        # The second term is 0 and carries the gradient of the weight, so the values stay exact.
        values: Tensor = code * (self.scale / self.levels)
        return values + self.scale.detach() * (ratio - ratio.detach())

    @torch.no_grad()
    def codes(self, x: Tensor) -> Codes:
        code = torch.round((x / self.unit).clamp(-1, 1) * self.levels)
        return Codes(code, self.scale.detach() / self.levels, torch.zeros_like(self.unit))


class DynamicRange(Quantizer):
    """Uniform activations scaled by the largest magnitude of the batch; nothing is learned.

    Args:
        bits: bit width; where data are signed, one bit is the sign.
        signed: whether data may be negative.
    """

    def __init__(self, bits: int, signed: bool) -> None:
        super().__init__()
        self.levels = 2 ** (bits - 1 if signed else bits) - 1
        self.signed = signed

    def forward(self, x: Tensor) -> Tensor:
        return straight_through(x, self.codes(x).dequantize())

    @torch.no_grad()
    def codes(self, x: Tensor) -> Codes:
        step = x.abs().max().clamp_min(SMALLEST_STEP) / self.levels
        code = torch.round((x if self.signed else x.clamp_min(0)) / step)
        return Codes(code, step, torch.zeros_like(step))


@register_scheme
class BSQScheme(Scheme):
    """BSQ's fixed-bit quantizers: a trained scale per layer, activations by the batch's maximum.

    Up to 3 activation bits are PACT's, as in the released code. The network's own ReLU is kept,
    where that code puts a ReLU6. One bit, which the paper's weights do not have, is the sign.
    """

    name: ClassVar[str] = "bsq"

    def weight_quantizer(self, weight: Tensor, bits: int) -> Quantizer:
        if bits == 1:
            return MinMax().weight_quantizer(weight, bits)
        return SignMagnitude(weight.detach().abs().max().clamp_min(SMALLEST_STEP), bits)

    def activation_quantizer(self, sample: Tensor, bits: int) -> Quantizer:
        if bits <= 3:
            return calibrated_pact(sample, bits)
        return DynamicRange(bits, bool(sample.min() < 0))
