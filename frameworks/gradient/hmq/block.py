"""The HMQ block: bits and threshold of a tensor as one relaxed choice.

Habi, Jennings and Netzer, "HMQ", arXiv 2007.09952; released code sony-si/ai-research. With pi a
Gumbel-softmax over all pairs of b bits and threshold t, the tensor is quantized once, with the
expected step and the expected threshold,

    Delta^ = sum pi_{t,b} Delta(t, b),   t^ = sum pi_{t,b} t,   q^ = t^ / Delta^,
    Q(x) = Delta^ clip(round(x / Delta^), -q^, q^ - 1),   from 0 where x is never negative,

and rounding has the gradient of the identity, so that the logits are reached through Delta^ and q^.
At one signed bit these levels are -t and 0; the quantizer that stays has -t/2 and t/2.
The noise is drawn anew for each image of a batch, and for each input channel of a weight.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from frameworks.core.quantizers.base import Codes, Quantizer, straight_through
from frameworks.core.quantizers.uniform import UniformQuantizer
from frameworks.gradient.hmq.quantizer import levels, power_of_two, thresholds

FIRST = 0.95
"""Sets the first logit of the pair that the search starts at (the most bits, no shift)."""


def first_logit(pairs: int) -> float:
    """``log(p n / (1 - p))`` for n pairs, p = 0.95."""
    return math.log(FIRST * pairs / (1 - FIRST))


def expected(x: Tensor, step: Tensor, threshold: Tensor, signed: bool) -> Tensor:
    """``Q(x)`` with steps and thresholds that broadcast against ``x``."""
    steps, ratio = threshold / step, x / step
    low = -steps if signed else torch.zeros_like(steps)
    return step * straight_through(ratio, ratio.round()).clamp(low, steps - 1)


class HMQBlock(Quantizer):
    """Bits and threshold of one tensor; hard outside of training.

    Args:
        bits: candidates, ascending.
        top: the largest threshold, a power of two.
        signed: whether the tensor may be negative.
        axis: noise is drawn for each index of this axis.
        generator: draws first logits and noise.
        device: of the logits.
    """

    thresholds: Tensor

    def __init__(
        self,
        bits: Sequence[int],
        top: float,
        signed: bool,
        axis: int,
        generator: torch.Generator,
        device: torch.device,
    ) -> None:
        super().__init__()
        self.bits, self.signed, self.axis = tuple(bits), signed, axis
        self.generator, self.tau = generator, 1.0
        found = torch.tensor(thresholds(top), device=device)
        self.register_buffer("thresholds", found)
        start = -torch.rand(len(bits), len(found), generator=generator)
        start[-1, 0] = first_logit(start.numel())
        self.logits = nn.Parameter(start.to(device))

    def learn_range(self, learn: bool = True) -> None:
        """Logits are no range: the search trains them by its own rule."""

    def steps(self) -> Tensor:
        """``Delta(t, b)`` ``[bits, thresholds]``."""
        each = self.thresholds.new_tensor([levels(b, self.signed) for b in self.bits])
        return self.thresholds / each[:, None]

    def sample(self, count: int) -> Tensor:
        """So many draws ``[count, bits, thresholds]`` of pi at temperature ``tau``."""
        logits = functional.log_softmax(self.logits.flatten(), 0)
        tiny = torch.finfo(logits.dtype).tiny
        u = torch.rand(count, len(logits), generator=self.generator).clamp_min(tiny)
        noise = -torch.log((-torch.log(u)).clamp_min(tiny)).to(logits.device)
        return torch.softmax((logits + noise) / self.tau, 1).view(count, *self.logits.shape)

    def marginal(self) -> Tensor:
        """The probability of each bit width ``[bits]``, without noise, at temperature 1."""
        return torch.softmax(self.logits.flatten(), 0).view_as(self.logits).sum(1)

    def threshold(self, bits: int) -> float:
        """The most probable threshold at these bits."""
        row = self.logits.detach()[self.bits.index(bits)]
        return float(self.thresholds[int(row.argmax())])

    def chosen(self) -> UniformQuantizer:
        """The quantizer of the most probable bits and, at these, threshold."""
        bits = self.bits[int(self.marginal().detach().argmax())]
        return power_of_two(self.threshold(bits), bits, self.signed, self.thresholds)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            hard: Tensor = self.chosen()(x)
            return hard
        pi = self.sample(x.shape[self.axis])
        shape = [1] * x.dim()
        shape[self.axis] = -1
        step = (pi * self.steps()).sum((1, 2)).view(shape)
        threshold = (pi.sum(1) * self.thresholds).sum(1).view(shape)
        return expected(x, step, threshold, self.signed)

    def codes(self, x: Tensor) -> Codes:
        return self.chosen().codes(x)
