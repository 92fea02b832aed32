"""Stochastic gates in [0, 1] that are exactly 0 or 1 with positive probability.

The hard-concrete distribution (Louizos et al., arXiv 1712.01312, equations 10 to 12; the constants
too) is a sigmoid of logistic noise, stretched and clipped. With u ~ U(0, 1) and a logit phi:

    s = sigmoid((log u - log(1 - u) + phi) / tau),   z = min(1, max(0, s (zeta - gamma) + gamma))

Its probabilities have a closed form:

    P(z > t) = sigmoid(phi - tau log((t - gamma) / (zeta - t)))   for 0 <= t < 1,
    P(z = 1) = the same at t = 1,   E[z] = integral of P(z > t) over [0, 1].

Nested gates (a level counts only if all gates up to it are open) have the expected cost

    sum_k c_k q_1 q_2 ... q_k,   q_k = P(z_k > 0).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

TAU = 2 / 3
ZETA = 1.1
GAMMA = -0.1


class HardConcrete(nn.Module):
    """Independent hard-concrete gates.

    Args:
        start: the first logits phi, one number a gate.
    """

    def __init__(self, start: Sequence[float] | Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.as_tensor(start, dtype=torch.float32).clone())

    def sample(self, generator: torch.Generator) -> Tensor:
        """One draw of every gate, differentiable in the logits; values in [0, 1]."""
        u = torch.rand(self.logits.shape, generator=generator).to(self.logits.device)
        tiny = torch.finfo(u.dtype).eps
        noise = torch.logit(u.clamp(tiny, 1 - tiny))
        s = torch.sigmoid((noise + self.logits) / TAU)
        return torch.clamp(s * (ZETA - GAMMA) + GAMMA, 0, 1)

    def exceeds(self, t: float) -> Tensor:
        """``P(z > t)`` of every gate for ``0 <= t < 1``; at 1 it is ``P(z = 1)``."""
        return torch.sigmoid(self.logits - TAU * math.log((t - GAMMA) / (ZETA - t)))

    def active(self) -> Tensor:
        """``P(z > 0)`` of every gate."""
        return self.exceeds(0.0)

    @torch.no_grad()
    def decided(self, threshold: float) -> list[bool]:
        """Whether each gate counts as open: its probability of being 0 is below a threshold."""
        return [bool(q) for q in 1 - self.active() < threshold]


def nested_cost(active: Sequence[Tensor], costs: Sequence[float]) -> Tensor:
    """``sum_k c_k q_1 ... q_k``: the expected cost of nested gates.

    Args:
        active: probabilities q_1, q_2, ... that the gates are open; they broadcast.
        costs: c_1, c_2, ...: what each level adds, as many as there are gates.
    """
    total, product = torch.zeros(()), torch.ones(())
    for q, cost in zip(active, costs, strict=True):
        product = product * q
        total = total + cost * product
    return total
