"""SDQ's parts: the stochastic choice of bits, its quantizer, and the regularizer of bins.

Huang et al., arXiv 2206.04459, section 3.2 and equation 10.

- A weight has one of two neighbouring bit widths, the higher with probability beta,
      W_q = z Q_{b_i}(W) + (1 - z) Q_{b_{i-1}}(W),   z ~ Bernoulli(beta),
  drawn by Gumbel-softmax: with l = logit(beta), draws g from Gumbel(0, 1) and a temperature tau
      c = sigmoid((l + g_1 - g_0) / tau),   z = [c > 1/2] forward, and its slope that of c.
- Beta is a differentiable bit-width parameter. One that has fallen below a threshold drops its
  layer to b_{i-1} for good, and a fresh one decides between that and the next lower bits. Just
  before and just after, the layer has b_{i-1} bits almost surely.
- Quantizer, per output channel, with the scale c = (2^b - 1) / 2^(b-1) mean|W| not trained:
      u = clip(W / c, -1, 1),   W_q = c (round((u + 1) n) / n - 1),   n = (2^b - 1) / 2.
- Entropy-aware bin regularization: over the bins of a layer, with the variance of the bin's
  population (0 for one weight),
      sum_bins (mean(bin) - centre)^2 + var(bin) = sum_bins mean_{j in bin} (u_j - centre)^2,
  so that every bin counts the same, however few weights it has.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor, nn

from frameworks.core.quantizers.base import Codes, Quantizer, Scheme, straight_through
from frameworks.core.quantizers.pact import calibrated_pact
from frameworks.core.quantizers.uniform import SMALLEST_STEP, per_channel
from frameworks.core.registry import register_scheme

SMALLEST_DRAW = 1e-20


def relaxed_choice(logit: Tensor, draws: Tensor, tau: float) -> Tensor:
    """``c`` (a scalar in (0, 1)) from two Gumbel draws ``[2]``, of the higher bits first."""
    return torch.sigmoid((logit + draws[0] - draws[1]) / tau)


class Ladder(nn.Module):
    """The bits of one decision, on their way down; tied weights share one.

    Args:
        bits: candidates, ascending.
        start: beta at first and after each drop.
        device: where it is kept.
    """

    def __init__(self, bits: tuple[int, ...], start: float, device: torch.device) -> None:
        super().__init__()
        self.candidates, self.level = bits, len(bits) - 1
        self.start = math.log(start / (1 - start))
        self.logit = nn.Parameter(torch.tensor(self.start, device=device))
        self.choice: Tensor | None = None

    @property
    def beta(self) -> Tensor:
        """Probability of the higher bits, differentiable (a scalar); 1 at the fewest."""
        return torch.sigmoid(self.logit) if self.level else torch.ones_like(self.logit)

    @property
    def bits(self) -> int:
        """The higher of the two bit widths."""
        return self.candidates[self.level]

    @property
    def expected(self) -> float:
        """Expected bits."""
        low = self.candidates[max(self.level - 1, 0)]
        return low + float(self.beta.detach()) * (self.bits - low)

    def sample(self, generator: torch.Generator, tau: float) -> None:
        """Draw whether this batch has the higher bits."""
        u = torch.rand(2, generator=generator).clamp_min(SMALLEST_DRAW)
        draws = -torch.log(-torch.log(u)).to(self.logit.device)
        soft = relaxed_choice(self.logit, draws, tau)
        self.choice = straight_through(soft, (soft.detach() > 0.5).to(soft.dtype))

    @torch.no_grad()
    def drop(self, threshold: float) -> bool:
        """Go down one level if beta is below the threshold; whether it did.

        Beta is kept from rising above its start, where it would have no slope to come back by.
        """
        self.logit.clamp_(max=self.start)
        if not self.level or float(self.beta) >= threshold:
            return False
        self.level, self.choice = self.level - 1, None
        self.logit.fill_(self.start)
        return True


class StochasticWeight(Quantizer):
    """A weight under the bits that its ladder has drawn; under the higher ones without a draw.

    Args:
        ladder: the bits.
        quantizers: one for each candidate, whose ranges are trained.
    """

    def __init__(self, ladder: Ladder, quantizers: dict[int, Quantizer]) -> None:
        super().__init__()
        self.ladder = ladder
        self.levels = nn.ModuleDict({str(bits): each for bits, each in quantizers.items()})

    def learn_range(self, learn: bool = True) -> None:
        for each in self.levels.values():
            each.learn_range(learn)  # type: ignore[operator]

    def forward(self, x: Tensor) -> Tensor:
        ladder = self.ladder
        high: Tensor = self.levels[str(ladder.bits)](x)
        if not ladder.level or ladder.choice is None:
            return high
        low: Tensor = self.levels[str(ladder.candidates[ladder.level - 1])](x)
        return ladder.choice * high + (1 - ladder.choice) * low

    @torch.no_grad()
    def error(self, x: Tensor) -> Tensor:
        """``||Q_{b_i}(W) - W||^2``, a scalar."""
        quantized: Tensor = self.levels[str(self.ladder.bits)](x)
        return (quantized - x).square().sum()

    def codes(self, x: Tensor) -> Codes:
        raise ValueError("a weight whose bits are drawn has integer codes once they are decided")


class ScaledWeight(Quantizer):
    """Weights divided by a multiple of each channel's mean magnitude (see the module's formulas).

    Args:
        bits: bit width.
    """

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.bits = bits

    def scale(self, x: Tensor) -> Tensor:
        """``c`` of the channels ``[C, 1, ...]``, without gradient."""
        mean = x.detach().flatten(1).abs().mean(1).clamp_min(SMALLEST_STEP)
        wide: Tensor = mean * ((2**self.bits - 1) / 2 ** (self.bits - 1))
        return per_channel(wide, x)

    def forward(self, x: Tensor) -> Tensor:
        scale = self.scale(x)
        inside = torch.maximum(torch.minimum(x, scale), -scale)
        return straight_through(inside, self.codes(x).dequantize())

    @torch.no_grad()
    def codes(self, x: Tensor) -> Codes:
        half = (2**self.bits - 1) / 2
        scale = self.scale(x)
        code = torch.round(((x / scale).clamp(-1, 1) + 1) * half)
        return Codes(code, scale / half, scale.new_tensor(-half))


def bin_regularizer(weight: Tensor, quantizer: ScaledWeight) -> Tensor:
    """The sum over the bins of a layer (a scalar), differentiable in the weight ``[C, ...]``."""
    codes = quantizer.codes(weight)
    apart = (weight - codes.dequantize()) / quantizer.scale(weight)
    return mean_of_bins(apart.square().flatten(), codes.code.flatten().long())


def mean_of_bins(values: Tensor, bins: Tensor) -> Tensor:
    """``sum_bins mean(values in the bin)`` (a scalar) of values ``[n]`` with their bins ``[n]``."""
    count = int(bins.max()) + 1
    sizes = values.new_zeros(count).index_add(0, bins, torch.ones_like(values))
    return (values.new_zeros(count).index_add(0, bins, values) / sizes.clamp_min(1)).sum()


@register_scheme
class SDQScheme(Scheme):
    """Weights scaled by each channel's mean magnitude; PACT's activations, whose clip is learned.

    The weights' scale follows them in training and is no parameter.
    """

    name: ClassVar[str] = "sdq"

    def weight_quantizer(self, weight: Tensor, bits: int) -> Quantizer:
        return ScaledWeight(bits)

    def activation_quantizer(self, sample: Tensor, bits: int) -> Quantizer:
        return calibrated_pact(sample, bits)
