"""How fractional bits become whole ones.

Yang and Jin, "FracBits", arXiv 2007.02017, as released: in the end every lambda takes the candidate
next to lambda + offset, and the one offset of the network, in [-1, 0], is bisected such that the
cost meets the target (see `hardened` for what is added here).
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from frameworks.core.policy import Bits, Policy
from frameworks.core.problem import Problem
from frameworks.core.search.draws import decoded
from frameworks.core.space import Space

TRIALS = 10
"""Offsets that are tried at most in the bisection."""
TOLERANCE = 0.01
"""A cost within this share of the limit ends the bisection."""


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

    Bisection as released, from offset 0 down to -1. Other than there, no policy over the limit is
    taken; where -1 is not enough, the range is doubled; and where 0 leaves more than 1 % of the
    budget, it goes up to 1: of few layers the errors of rounding do not cancel.
    """
    space = problem.space

    def share(offset: float) -> float:
        costs = problem.cost(rounded(space, bits, offset))
        return problem.budget.load(costs) / problem.budget.limit

    def within(offset: float) -> bool:
        return problem.within(rounded(space, bits, offset))

    over, fits = (1.0, 0.0) if within(0.0) else (0.0, -1.0)
    if within(over):
        over = fits = 1.0
    while not within(fits) and fits > -max(_spans(space)):
        over, fits = fits, 2 * fits
    if share(fits) < 1 - TOLERANCE or fits < 0:
        for _ in range(TRIALS):
            middle = (over + fits) / 2
            over, fits = (over, middle) if within(middle) else (middle, fits)
            if fits == middle and share(fits) >= 1 - TOLERANCE:
                break
    return rounded(space, bits, fits), fits


def _spans(space: Space) -> list[int]:
    return [choice.bits[-1] - choice.bits[0] for choice in space.choices]
