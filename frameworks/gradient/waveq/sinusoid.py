"""WaveQ's regularizer, its profiles over a training, and the grid that its minima are.

Elthakeb et al., arXiv 2003.00146; released code he-actlab/waveq.code. For weights w in [-1, 1] and
beta magnitude bits, the sign not counted,

    R(w; beta) = mean_j sin^2(pi w_j (2^beta - 1)) / 2^beta

is 0 exactly on the grid k / (2^beta - 1), |k| <= 2^beta - 1, which has a level at 0. Its slopes are

    dR/dw_j  = pi (2^beta - 1) / 2^beta sin(2 pi w_j (2^beta - 1)) / n
    dR/dbeta = ln 2 mean_j [pi w_j sin(2 pi w_j (2^beta - 1)) - sin^2(pi w_j (2^beta - 1)) / 2^beta]

The norm 1 / 2^beta is the one of three tried (1, 1 / 2^beta, 1 / 4^beta) whose slope in beta is
neither large nor gone over the bits of interest. The strengths follow

    f(t, c) = (1 + tanh((t - c) / s)) / 2,   lambda_w = f(t, r),   lambda_beta = f(t, r) - f(t, d)

times their plateaus: both rise at r, and that of the bits falls again at d.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor, nn

from frameworks.core.quantizers.base import Codes, Quantizer, Scheme
from frameworks.core.quantizers.pact import calibrated_pact
from frameworks.core.quantizers.uniform import SMALLEST_STEP, UniformQuantizer, symmetric_grid
from frameworks.core.registry import register_scheme


def wave(weight: Tensor, beta: Tensor, norm: float = 1.0) -> Tensor:
    """``R`` of a layer (a scalar), differentiable in both.

    Args:
        weight: in [-1, 1], of any shape.
        beta: magnitude bits, a positive scalar.
        norm: 1 for the division by ``2^beta``, 0 for none and 2 for ``4^beta``.
    """
    return torch.sin(math.pi * weight * (2**beta - 1)).square().mean() / 2 ** (norm * beta)


def profile(t: float, rise: float, fall: float, width: float) -> tuple[float, float]:
    """``(lambda_w, lambda_beta)`` at a time, each relative to its plateau (all in one unit)."""
    up, down = ((1 + math.tanh((t - c) / width)) / 2 for c in (rise, fall))
    return up, up - down


class Period(nn.Module):
    """The learned bits of one decision: ``beta``, of which tied weights share one.

    Args:
        bits: candidate weight bits, the sign counted, ascending.
        device: where it is kept.
    """

    def __init__(self, bits: tuple[int, ...], device: torch.device) -> None:
        super().__init__()
        self.candidates = bits
        self.low, self.high = max(bits[0] - 1.0, 1.0), max(bits[-1] - 1.0, 1.0)
        self.beta = nn.Parameter(torch.tensor(self.high, device=device))

    @property
    def bits(self) -> int:
        """The fewest candidate bits with ``ceil(beta)`` magnitude bits and a sign."""
        wanted = math.ceil(float(self.beta.detach())) + 1
        return next((bits for bits in self.candidates if bits >= wanted), self.candidates[-1])

    def scale(self) -> Tensor:
        """``alpha = ceil(beta) / beta``, at least 1, differentiable in beta."""
        return self.beta.detach().ceil() / self.beta

    @torch.no_grad()
    def clamp_(self) -> None:
        """Keep beta among the candidates and at 1 or more; to be called after each step."""
        self.beta.clamp_(self.low, self.high)


class WaveWeight(Quantizer):
    """A weight under the bits that its period says, ``alpha Q_b(w / alpha)``.

    Rounding has the gradient of ``Q_b``, so that the scale takes the task loss to beta.

    Args:
        period: the bits.
        reach: what a weight is divided by to lie in [-1, 1]: the pretrained ``max|w|``.
        quantizers: ``Q_b`` for each candidate, whose ranges are trained.
    """

    reach: Tensor

    def __init__(self, period: Period, reach: Tensor, quantizers: dict[int, Quantizer]) -> None:
        super().__init__()
        self.period = period
        self.levels = nn.ModuleDict({str(bits): each for bits, each in quantizers.items()})
        self.register_buffer("reach", reach.detach().clone())

    def learn_range(self, learn: bool = True) -> None:
        for each in self.levels.values():
            each.learn_range(learn)  # type: ignore[operator]

    def forward(self, x: Tensor) -> Tensor:
        alpha = self.period.scale()
        out: Tensor = alpha * self.levels[str(self.period.bits)](x / alpha)
        return out

    def regularizer(self, x: Tensor) -> Tensor:
        """``R`` of the raw weight (a scalar)."""
        return wave(x / self.reach, self.period.beta)

    def codes(self, x: Tensor) -> Codes:
        raise ValueError("a weight whose bits are learned has integer codes once they are decided")


@register_scheme
class WaveScheme(Scheme):
    """The minima of the sinusoid over the weights' range: ``2 (2^(b-1) - 1) + 1`` levels a layer.

    b bits count the sign, so that the grid is that of ``beta = b - 1``; it is the b-bit grid of
    WRPN (Mishra et al., arXiv 1709.01134). One bit, which has no such grid, is ``+-E|w|``.
    Activations are PACT's.
    """

    name: ClassVar[str] = "waveq"

    def weight_quantizer(self, weight: Tensor, bits: int) -> Quantizer:
        size = weight.detach().abs()
        if bits == 1:
            step = 2 * size.mean().clamp_min(SMALLEST_STEP)
            return UniformQuantizer(step, *symmetric_grid(1), learned=False)
        levels = 2 ** (bits - 1) - 1
        step = size.max().clamp_min(SMALLEST_STEP) / levels
        return UniformQuantizer(step, -levels, levels, learned=False)

    def activation_quantizer(self, sample: Tensor, bits: int) -> Quantizer:
        return calibrated_pact(sample, bits)
