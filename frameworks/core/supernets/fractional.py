"""The cost of bits that are no integers yet: linear between neighbouring candidates.

Yang and Jin, "FracBits", arXiv 2007.02017: a layer with lambda_w weight and lambda_a activation
bits costs the interpolation of the four corners around (lambda_w, lambda_a) on the grid of
candidates, so that it is exact at candidates and differentiable between them. For BOPs between
neighbouring integers it is MACs * lambda_w * lambda_a. With the hat functions h of the candidates
c_1 < ... < c_K,

    h_k(lambda) = max(0, 1 - distance to c_k in units of the gap on that side),   sum_k h_k = 1,

it is h(lambda_w)^T T h(lambda_a) with T the layer's table of costs, which is the form of
`frameworks.core.supernets.relaxations.ExpectedCost`: the hats take the place of probabilities.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from frameworks.core.problem import Problem
from frameworks.core.space import Space
from frameworks.core.supernets.relaxations import expected_cost


def hats(candidates: Sequence[int], bits: Tensor) -> Tensor:
    """``h_k(bits)`` ``[..., K]``, differentiable in ``bits`` ``[...]``; constant outside the range.

    At a candidate the derivative is that of the interval above it (below it at the last one).
    """
    at = torch.tensor(candidates, dtype=bits.dtype, device=bits.device)
    within = (bits >= at[0]) & (bits <= at[-1])
    # Not clamp, which at the ends themselves has no gradient: bits there could not come back.
    inside = torch.where(within, bits, bits.detach().clamp(float(at[0]), float(at[-1])))
    low = (torch.bucketize(inside.detach(), at, right=True) - 1).clamp(0, len(candidates) - 2)
    share = (inside - at[low]) / (at[low + 1] - at[low])
    lower = functional.one_hot(low, len(candidates)).to(bits.dtype)
    upper = functional.one_hot(low + 1, len(candidates)).to(bits.dtype)
    return lower * (1 - share)[..., None] + upper * share[..., None]


def fractional_rows(space: Space, bits: Sequence[Tensor]) -> Tensor:
    """The hats ``[choices, K]`` of every choice of a space, for its
    `frameworks.core.supernets.relaxations.ExpectedCost`.

    Args:
        space: with the choices and their candidates.
        bits: for each choice its bits, a scalar, or one number per output channel ``[C]``, whose
            cost is then the mean over channels.
    """
    widest = max(len(choice.bits) for choice in space.choices)
    rows = []
    for choice, value in zip(space.choices, bits, strict=True):
        each = hats(choice.bits, value).reshape(-1, len(choice.bits)).mean(0)
        rows.append(functional.pad(each, (0, widest - len(choice.bits))))
    return torch.stack(rows)


class FractionalCost(nn.Module):
    """The shares of a problem's budget that bits cost which are no integers yet.

    The target must be a sum over layers.
    """

    def __init__(self, problem: Problem) -> None:
        super().__init__()
        self.space, self.device = problem.space, problem.device
        costs = [
            expected_cost(problem.space, problem.layer_costs(bound.metric), bound.limit)
            for bound in problem.budget.bounds
        ]
        self.costs = nn.ModuleList(costs).to(problem.device)

    def forward(self, bits: Sequence[Tensor]) -> Tensor:
        """The share of each of the budget's limits ``[metrics]``, from the bits of each choice."""
        rows = fractional_rows(self.space, bits)
        return torch.stack([cost(rows) for cost in self.costs])

    @torch.no_grad()
    def uniform(self) -> float:
        """The bits, the same for all choices, that use up the budget, or the most there are."""
        choices = self.space.choices
        low = float(min(choice.bits[0] for choice in choices))
        high = float(max(choice.bits[-1] for choice in choices))
        for _ in range(40):
            middle = (low + high) / 2
            shares = self([torch.tensor(middle, device=self.device)] * len(choices))
            low, high = (middle, high) if float(shares.max()) <= 1 else (low, middle)
        return low
