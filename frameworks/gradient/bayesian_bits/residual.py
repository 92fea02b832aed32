"""Nested residual quantization: each doubling of the bits adds the rounded rest of the level below.

Bayesian Bits (van Baalen et al., arXiv 2005.07093, section 2.1, equations 1 to 6), with a range
[alpha, beta], alpha = -beta for signed data and 0 for others:

    s_2 = (beta - alpha) / (2^2 - 1),   s_4 = s_2 / (2^2 + 1),   s_8 = s_4 / (2^4 + 1), ...
    x_2 = s_2 round(x / s_2),   e_4 = s_4 round((x - x_2) / s_4),
    e_8 = s_8 round((x - x_2 - e_4) / s_8), ...
    x_q = z_2 (x_2 + z_4 (e_4 + z_8 (e_8 + z_16 (e_16 + z_32 e_32))))

with gates z. So s_b = (beta - alpha) / (2^b - 1), and with the gates up to b open the sum is plain
rounding to the grid of s_b. x is clipped to (1 - 1e-7) times the range first, so that nothing is
rounded to a level beyond it; rounding has the gradient of the identity, and beta is learned.

Of quantizers that do not share one range, e_b = Q_b(x) - Q_b/2(x) takes the place of the residual,
which on nested grids is the same thing: any scheme can be gated. The gated sum is then

    (1 - z_4) Q_2(x) + z_4 (1 - z_8) Q_4(x) + z_4 z_8 (1 - z_16) Q_8(x) + ...
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from frameworks.core.quantizers.base import Codes, Grid, Quantizer, Scheme, straight_through
from frameworks.core.quantizers.composite import Composite
from frameworks.core.quantizers.uniform import SMALLEST_STEP, UniformQuantizer
from frameworks.core.registry import register_scheme

LEVELS = (2, 4, 8, 16, 32)
"""The bit widths of the full chain."""
SHRINK = 1 - 1e-7


def pact_clip(x: Tensor, beta: Tensor, signed: bool) -> Tensor:
    """Clip to (1 - 1e-7) times ``[-beta, beta]`` or ``[0, beta]``, differentiable in both."""
    high = SHRINK * beta
    low = -high if signed else torch.zeros_like(high)
    return high - functional.relu(high - low - functional.relu(x - low))


def nested_steps(beta: Tensor, signed: bool, levels: Sequence[int]) -> list[Tensor]:
    """The step ``s_b = (beta - alpha) / (2^b - 1)`` of each level."""
    span = 2 * beta if signed else beta
    return [span / (2**bits - 1) for bits in levels]


def _rounded(x: Tensor, step: Tensor) -> Tensor:
    ratio = x / step
    return step * straight_through(ratio, torch.round(ratio))


def decompose(x: Tensor, steps: Sequence[Tensor]) -> list[Tensor]:
    """``x_2, e_4, e_8, ...``: the clipped tensor's first level and the residuals after it.

    Residuals are taken from the ungated sum of all levels below.
    """
    parts: list[Tensor] = []
    for step in steps:
        parts.append(_rounded(x, step))
        x = x - parts[-1]
    return parts


def gated_sum(parts: Sequence[Tensor], gates: Sequence[Tensor]) -> Tensor:
    """``x_2 + z_4 (e_4 + z_8 (e_8 + ...))``; there is one gate less than parts."""
    total = parts[-1]
    for part, gate in zip(reversed(parts[:-1]), reversed(gates), strict=True):
        total = part + gate * total
    return total


def level_shares(gates: Sequence[Tensor], count: int) -> Tensor:
    """``1 - z_4, z_4 (1 - z_8), ...``: what the gated sum is of the plain levels ``[count]``.

    Levels beyond the gates that are given have no share.
    """
    if not gates:
        return functional.pad(torch.ones(1), (0, count - 1))
    products = torch.stack([torch.ones_like(gates[0]), *gates]).cumprod(0)
    shares = products - torch.cat([products[1:], products.new_zeros(1)])
    return functional.pad(shares, (0, count - len(shares)))


class RangeQuantizer(Quantizer):
    """Plain rounding to the grid of one level; the range beta is learned.

    Args:
        beta: positive upper end, a scalar.
        bits: the level.
        signed: whether the range is symmetric around 0.
    """

    beta: Tensor

    def __init__(self, beta: Tensor, bits: int, signed: bool) -> None:
        super().__init__()
        self.beta = nn.Parameter(beta.detach().clone().view(()), requires_grad=False)
        self.bits, self.signed = bits, signed

    def forward(self, x: Tensor) -> Tensor:
        beta = self.beta.clamp_min(SMALLEST_STEP)
        (step,) = nested_steps(beta, self.signed, [self.bits])
        return _rounded(pact_clip(x, beta, self.signed), step)

    @torch.no_grad()
    def codes(self, x: Tensor) -> Codes:
        beta = self.beta.clamp_min(SMALLEST_STEP)
        (step,) = nested_steps(beta, self.signed, [self.bits])
        code = torch.round(pact_clip(x, beta, self.signed) / step)
        return Codes(code, step, torch.zeros_like(step))

    def uniform_grid(self) -> Grid:
        beta = self.beta.detach().clamp_min(SMALLEST_STEP)
        (step,) = nested_steps(beta, self.signed, [self.bits])
        # A signed range ends half a step beyond its last level, give or take float32's last bit.
        ends = self.codes(torch.stack([-2 * beta, 2 * beta])).code
        return Grid(float(step), int(ends[0]), int(ends[1]), 0.0)


class GatedResidual(Quantizer):
    """A tensor's quantizers at rising bits, each level behind a gate.

    The gates of the passes that follow are set by the network that holds it: ``gates`` are those of
    the second level and up, of which a shut one (None) shuts all above it; ``first`` multiplies the
    whole (per output channel, ``[C]``), None for 1.

    Args:
        quantizers: one per level, from few to many bits. If all are `RangeQuantizer`, they share
            the range of the last; else the levels are differences of the quantizers' outputs.
    """

    def __init__(self, quantizers: Sequence[Quantizer]) -> None:
        super().__init__()
        ranges = [q for q in quantizers if isinstance(q, RangeQuantizer)]
        self.nested = ranges[-1] if len(ranges) == len(quantizers) else None
        self.levels = [q.bits for q in ranges]
        self.plain = Composite(quantizers) if self.nested is None else None
        self.count = len(quantizers)
        self.gates: Sequence[Tensor | None] = [None] * (self.count - 1)
        self.first: Tensor | None = None

    def _total(self, x: Tensor, gates: Sequence[Tensor]) -> Tensor:
        if self.nested is None:
            assert self.plain is not None
            out: Tensor = self.plain(x, level_shares(gates, self.count).to(x.device))
            return out
        beta, signed = self.nested.beta.clamp_min(SMALLEST_STEP), self.nested.signed
        steps = nested_steps(beta, signed, self.levels[: len(gates) + 1])
        return gated_sum(decompose(pact_clip(x, beta, signed), steps), gates)

    def forward(self, x: Tensor) -> Tensor:
        gates = list(takewhile(lambda gate: gate is not None, self.gates))
        total = self._total(x, [gate for gate in gates if gate is not None])
        if self.first is None:
            return total
        return self.first.view(-1, *(1,) * (x.dim() - 1)) * total

    def codes(self, x: Tensor) -> Codes:
        raise ValueError("a gated quantizer has integer codes only once its gates are decided")


@register_scheme
class BayesianBitsScheme(Scheme):
    """Ranges per tensor, from the data's largest magnitude; the levels of equal range are nested.

    Signed b-bit grids have the 2^b - 1 levels of a symmetric range. One bit, which the paper does
    not have, has the two levels -beta/2 and beta/2 where data are signed.
    """

    name: ClassVar[str] = "bayesian_bits"

    def weight_quantizer(self, weight: Tensor, bits: int) -> Quantizer:
        return self._range(weight.detach(), bits, signed=True)

    def activation_quantizer(self, sample: Tensor, bits: int) -> Quantizer:
        return self._range(sample.detach(), bits, signed=bool(sample.min() < 0))

    @staticmethod
    def _range(data: Tensor, bits: int, signed: bool) -> Quantizer:
        beta = data.abs().max().clamp_min(SMALLEST_STEP)
        if bits == 1 and signed:
            return UniformQuantizer(beta, -1, 0, 0.5)
        return RangeQuantizer(beta, bits, signed)
