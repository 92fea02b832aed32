"""What fractional bits cost, and how they become whole ones.

Yang and Jin, "FracBits", arXiv 2007.02017, as released: the cost of fractional bits is interpolated
between those of the candidates around them (`frameworks.core.supernets.fractional`). In the end
every lambda takes the candidate next to lambda + offset, and the one offset of the network, in
[-1, 0], is bisected such that the cost meets the target.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from frameworks.core.policy import Bits, Policy
from frameworks.core.problem import Problem
from frameworks.core.search.draws import decoded
from frameworks.core.space import Space
from frameworks.core.supernets.fractional import fractional_rows
from frameworks.core.supernets.relaxations import expected_cost

TRIALS = 10
"""Offsets that are tried at most in the bisection."""
TOLERANCE = 0.01
"""A cost within this share of the limit ends the bisection."""


class Consumption(nn.Module):
    """The share of the budget that fractional bits cost; with several limits, of the nearest."""

    def __init__(self, problem: Problem) -> None:
        super().__init__()
        self.space, self.device = problem.space, problem.device
        costs = [
            expected_cost(problem.space, problem.layer_costs(bound.metric), bound.limit)
            for bound in problem.budget.bounds
        ]
        self.costs = nn.ModuleList(costs).to(problem.device)

    def forward(self, bits: Sequence[Tensor]) -> Tensor:
        """A scalar, 1 at the limit."""
        rows = fractional_rows(self.space, bits)
        return torch.stack([cost(rows) for cost in self.costs]).max()

    @torch.no_grad()
    def gap(self, bits: Sequence[Tensor]) -> float:
        """``|C / C_T - 1|``."""
        return abs(float(self(bits)) - 1)

    @torch.no_grad()
    def uniform(self) -> float:
        """The bits, the same everywhere, that cost the whole budget."""
        choices = self.space.choices
        low = float(min(choice.bits[0] for choice in choices))
        high = float(max(choice.bits[-1] for choice in choices))
        for _ in range(40):
            middle = (low + high) / 2
            share = self([torch.tensor(middle, device=self.device)] * len(choices))
            low, high = (middle, high) if float(share) <= 1 else (low, middle)
        return low


def rounded(space: Space, bits: Sequence[Tensor], offset: float) -> Policy:
    """Every decision at the candidate nearest to its bits plus the offset.

    Of two candidates that are as near it is the even one, as in rounding half to even.
    """
    values: list[Bits] = []
    for choice, each in zip(space.choices, bits, strict=True):
        wishes = (each.detach().double() + offset).reshape(-1).tolist()
        near = [min(choice.bits, key=lambda b: (abs(b - w), b % 2, b)) for w in wishes]
        values.append(tuple(near) if len(near) > 1 else near[0])
    return decoded(space, values)


def hardened(problem: Problem, bits: Sequence[Tensor]) -> tuple[Policy, float]:
    """The policy of the rounded bits that uses the most of the budget, and its offset.

    Bisection as released: from offset 0, which is kept if it is cheap enough, down to -1. Other
    than there, no policy over the limit is taken, and where -1 is not enough, the range is doubled.
    """
    space = problem.space

    def share(offset: float) -> float:
        costs = problem.cost(rounded(space, bits, offset))
        return problem.budget.load(costs) / problem.budget.limit

    over, fits = 0.0, 0.0
    if not problem.within(rounded(space, bits, 0.0)):
        fits = -1.0
        while not problem.within(rounded(space, bits, fits)) and fits > -max(_spans(space)):
            over, fits = fits, 2 * fits
        for _ in range(TRIALS):
            if share(fits) >= 1 - TOLERANCE:
                break
            middle = (over + fits) / 2
            within = problem.within(rounded(space, bits, middle))
            over, fits = (over, middle) if within else (middle, fits)
    return rounded(space, bits, fits), fits


def _spans(space: Space) -> list[int]:
    return [choice.bits[-1] - choice.bits[0] for choice in space.choices]
