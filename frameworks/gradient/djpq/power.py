"""A non-linear quantizer whose step, range and exponent are learned, and with them its bits.

DJPQ (Wang, Lu and Blankevoort, arXiv 2007.10463). With a step d, a range q_m and an exponent t, in
the paper's signs and without its dead zone (q_s = 0)::

    x_Q = sign(x) d round(v / d),   v = min(|x|, q_m)^t
    dx_Q/dd   = sign(x) (round(v / d) - v / d)
    dx_Q/dq_m = sign(x) t q_m^(t-1) where |x| > q_m, else 0
    dx_Q/dt   = sign(x) v ln(min(|x|, q_m))
    dx_Q/dx   = 1 where |x| <= q_m, else 0
    b = log2(q_m^t / d + 1) + 1

(microsoft/geta, ``quant_layers.py``, has the first three and b by reference to the paper; which
gradient x has is not known.) b counts the sign: data that are never negative are clipped at 0, have
t = 1 and one bit less. d = q_m^t / (2^(b-1) - 1) has b bits; t = 1 and q_m = max|x| to begin with.
What comes out is of the mapped domain, a uniform grid of d, whatever t is.

The bit-restricted variant (DJPQ-restrict) takes the power of two that is nearest to b in the
logarithm, and the d that has so many bits, in every forward pass; b goes on to learn as if it had
not.

d and q_m are kept as logarithms, so that they stay positive and one learning rate fits all, and t
as 2^tanh(s), between 1/2 and 2: bits and costs fall with q_m^t, so that a free t runs away where
q_m < 1, and the weights with it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from frameworks.core.quantizers.base import Codes, Grid, Quantizer, Scheme, straight_through
from frameworks.core.quantizers.uniform import SMALLEST_STEP, UniformQuantizer
from frameworks.core.registry import register_scheme

NEAR_ZERO = 1e-6
"""What magnitudes below it count as under a power or a logarithm."""
LAST = 0.999999
"""The exponent's logarithm, to the base of 2, is at most this."""


def mapped(x: Tensor, reach: Tensor, power: Tensor | None, signed: bool) -> tuple[Tensor, Tensor]:
    """``sign(x) min(|x|, q_m)`` and ``sign(x) v``; unsigned data are clipped at 0."""
    clipped = torch.clamp(x, -reach if signed else torch.zeros_like(reach), reach)
    if power is None:
        return clipped, clipped
    return clipped, clipped.abs().clamp_min(NEAR_ZERO) ** power * clipped.sign()


class _PowerRound(torch.autograd.Function):
    """``x_Q`` with the module's gradients for x, d, q_m and t (None for 1)."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, step: Tensor, reach: Tensor, power: Tensor | None, signed: bool
    ) -> Tensor:
        clipped, v = mapped(x, reach, power, signed)
        ratio = v / step
        code = torch.round(ratio)
        bent, ctx.low = None if power is None else clipped, -1.0 if signed else 0.0
        ctx.save_for_backward(x, clipped == x, code - ratio, bent, reach, power)
        return code * step

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,), (x, inside, rounding, bent, reach, power) = grads, ctx.saved_tensors
        for_step = (grad * rounding).sum()
        outside = ~inside
        # Unsigned data are at 0, and not at the range, where they are negative.
        ends = torch.where(x[outside] < 0, ctx.low, 1.0)
        for_reach, for_power = (grad[outside] * ends).sum(), None
        if power is not None:
            for_reach = for_reach * power * reach ** (power - 1)
            base = bent.abs().clamp_min(NEAR_ZERO)
            for_power = (grad * bent.sign() * base**power * base.log()).sum()
        return grad * inside, for_step, for_reach, for_power, None


def power_round(
    x: Tensor, step: Tensor, reach: Tensor, power: Tensor | None = None, signed: bool = True
) -> Tensor:
    """``x_Q`` of the module's formulas: any tensor, and scalars d, q_m and t (None for 1)."""
    out: Tensor = _PowerRound.apply(x, step, reach, power, signed)
    return out


def most_code(bits: int, signed: bool) -> int:
    """The largest code of b bits: ``2^(b-1) - 1``, or ``2^b - 1`` of unsigned data."""
    return int(2 ** (bits - signed) - 1)


class PowerQuantizer(Quantizer):
    """Learned step, range and exponent (see the module's formulas).

    Codes end at the largest that the bits have, unless ``caps`` is False (for one whose step is
    moved by `keep_between` after all that changes it).

    Args:
        reach: q_m, a positive scalar.
        bits: the most bits, at least 2 of signed data, and those to begin with.
        signed: whether data have both signs.
        bends: whether there is an exponent; 1 otherwise.
        restricted: the powers of two among which bits are rounded; empty for none.
        unit: what the data are measured in, a scalar or per channel ``[C, 1, ...]``; 1 if None.
    """

    unit: Tensor | None

    def __init__(
        self,
        reach: Tensor,
        bits: int,
        signed: bool,
        bends: bool = False,
        restricted: Sequence[int] = (),
        unit: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.signed, self.restricted = signed, tuple(restricted)
        self.most = most_code(bits, signed)
        self.caps = True
        log_reach = reach.detach().clone().view(()).clamp_min(SMALLEST_STEP).log()
        self.log_reach = nn.Parameter(log_reach, requires_grad=False)
        self.log_step = nn.Parameter(log_reach - math.log(self.most), requires_grad=False)
        zero = torch.zeros_like(log_reach)
        self.bend = nn.Parameter(zero, requires_grad=False) if bends else None
        self.register_buffer("unit", unit)

    @property
    def power(self) -> Tensor | None:
        """The exponent t; None for 1."""
        return None if self.bend is None else torch.exp2(torch.tanh(self.bend))

    def log_end(self) -> Tensor:
        """``log(q_m^t)``, a scalar."""
        return self.log_reach if self.power is None else self.power * self.log_reach

    def bits(self) -> Tensor:
        """``b`` of `bits_of`, a scalar."""
        return bits_of([self])[0]

    def _ends(self) -> tuple[Tensor, Tensor]:
        """The step and the range in force: codes end at the largest that the bits have."""
        step, reach, power = self.log_step.exp(), self.log_reach.exp(), self.power
        if self.restricted:
            levels = torch.exp2(self.bits().detach() - float(self.signed)) - 1
            step = straight_through(step, (self.log_end() - levels.log()).exp())
        if not self.caps:
            return step, reach
        last = self.most * step
        fits = self.log_end().exp() <= last + 0.4 * step
        return step, torch.where(fits, reach, last if power is None else last ** (1 / power))

    def forward(self, x: Tensor) -> Tensor:
        step, reach = self._ends()
        data = x if self.unit is None else x / self.unit
        out = power_round(data, step, reach, self.power, self.signed)
        return out if self.unit is None else out * self.unit

    @torch.no_grad()
    def codes(self, x: Tensor) -> Codes:
        step, reach = self._ends()
        data = x if self.unit is None else x / self.unit
        code = torch.round(mapped(data, reach, self.power, self.signed)[1] / step)
        scale = step if self.unit is None else step * self.unit
        return Codes(code, scale, torch.zeros_like(step))

    def code_range(self) -> tuple[int, int]:
        return -self.most if self.signed else 0, self.most

    @torch.no_grad()
    def uniform_grid(self) -> Grid | None:
        if self.bend is not None or self.unit is not None:
            return None
        step, reach = self._ends()
        high = int(torch.round(reach / step))
        return Grid(float(step), -high if self.signed else 0, high, 0.0)

    @torch.no_grad()
    def keep_between(self, fewest: int, most: int) -> None:
        """Move the step, in place, to where the bits are within these."""
        ends = [math.log(most_code(bits, self.signed)) for bits in (most, fewest)]
        end = self.log_end()
        # A little within: beyond the most bits no cost says that fewer would be cheaper.
        self.log_step.copy_(torch.clamp(self.log_step, end - ends[0] + 1e-5, end - ends[1]))

    def learned(self) -> list[float]:
        """d, q_m and t as numbers."""
        power = 1.0 if self.power is None else float(self.power.detach())
        return [float(self.log_step.detach().exp()), float(self.log_reach.detach().exp()), power]

    @torch.no_grad()
    def put(self, step: float, reach: float, power: float) -> None:
        """Put in d, q_m and t (the last where there is an exponent)."""
        self.log_step.fill_(math.log(step))
        self.log_reach.fill_(math.log(reach))
        if self.bend is not None:
            self.bend.fill_(math.atanh(min(max(math.log2(power), -LAST), LAST)))


def soft_bits(quantizers: Sequence[PowerQuantizer]) -> Tensor:
    """``b`` before any rounding ``[n]``, differentiable in steps, ranges and exponents."""
    log_levels = torch.stack([q.log_end() for q in quantizers])
    log_levels = log_levels - torch.stack([q.log_step for q in quantizers])
    signs = log_levels.new_tensor([float(q.signed) for q in quantizers])
    return torch.log2(log_levels.exp() + 1) + signs


def bits_of(quantizers: Sequence[PowerQuantizer]) -> Tensor:
    """``b`` as it is paid for ``[n]``: rounded to a power of two where bits are restricted."""
    soft = soft_bits(quantizers)
    if not any(q.restricted for q in quantizers):
        return soft
    rounded = []
    for quantizer, bits in zip(quantizers, soft.tolist(), strict=True):
        near = {abs(math.log2(each / bits)): float(each) for each in quantizer.restricted}
        rounded.append(near[min(near)] if near else bits)
    return straight_through(soft, soft.new_tensor(rounded))


@register_scheme
class DJPQScheme(Scheme):
    """Ranges per tensor from the data's largest magnitude; weights have an exponent.

    One bit, which the paper does not have, has the two levels -q_m/2 and q_m/2 where data are
    signed, and is uniform.
    """

    name: ClassVar[str] = "djpq"

    def weight_quantizer(self, weight: Tensor, bits: int) -> Quantizer:
        return self._power(weight.detach(), bits, signed=True, bends=True)

    def activation_quantizer(self, sample: Tensor, bits: int) -> Quantizer:
        return self._power(sample.detach(), bits, signed=bool(sample.min() < 0), bends=False)

    @staticmethod
    def _power(data: Tensor, bits: int, signed: bool, bends: bool) -> Quantizer:
        reach = data.abs().max().clamp_min(SMALLEST_STEP)
        if bits == 1 and signed:
            return UniformQuantizer(reach, -1, 0, 0.5)
        return PowerQuantizer(reach, bits, signed, bends)
