"""BP-NAS's constraint: the soft barrier, the Prob-1 regularizer and the valid domain.

With the limit U and the expected cost E[B] = sum_l sum_k p_lk B_lk under the probabilities p,

    L_c     = -mu log(log R),   dL_c / dE[B] = mu / (R log R),   R = U + 1 - E[B];
    L_prob1 = mean_l prod_k (1 - p_lk),   0 where one candidate of each decision has all of p.

The barrier is nearly flat far inside, where it is negative, and grows without end as E[B] goes to
U. From 1e-3 before it on it goes on as a line, as an expectation may step over the limit.

B is in mean bit products per multiply-accumulate, as the paper's tables have constraints: the
uniform k-bit network has k^2, and the 1 of the barrier is about a step between candidates. For a
metric that activations do not touch it is mean weight bits per weight.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from frameworks.core.policy import Policy
from frameworks.core.problem import Problem
from frameworks.core.supernets.decisions import (
    Decision,
    cheapest_picks,
    decided,
    decided_costs,
    decision_cost,
    least_within,
)
from frameworks.core.supernets.relaxations import Choices, ExpectedCost

EDGE = 1e-3
START = 0.9
"""The share of the room above the cheapest network that the first one may take."""
PUSH = 0.1
STEEPEST = 40.0


def barrier(expected: Tensor, limit: float, mu: float) -> Tensor:
    """``-mu log(log(U + 1 - E[B]))``, and a line from `EDGE` before U on; a scalar."""
    room, edge = limit + 1 - expected, 1 + EDGE
    beyond = (edge - room).clamp_min(0) / (edge * math.log(edge))
    return mu * (beyond - room.clamp_min(edge).log().log())


def prob1(p: Tensor) -> Tensor:
    """``mean_l prod_k (1 - p_lk)`` of probabilities ``[decisions, K]``; a scalar.

    Decisions of one candidate count, as the 0 that they are.
    """
    return (1 - p).prod(1).mean()


@dataclass(frozen=True)
class Constraint:
    """One limit of the budget.

    Attributes:
        metric: of the target.
        cost: the expected cost under probabilities.
        limit: U, in the same unit.
    """

    metric: str
    cost: ExpectedCost
    limit: float


class Domain:
    """The valid domain: all probabilities under which every expected cost is below its limit.

    Args:
        problem: gives target and budget.
        decisions: what is chosen.
    """

    def __init__(self, problem: Problem, decisions: Sequence[Decision]) -> None:
        self.problem, self.decisions = problem, decisions
        limits = problem.budget.limits
        self.constraints = [self._constraint(metric, limits[metric]) for metric in limits]

    def _constraint(self, metric: str, limit: float) -> Constraint:
        problem = self.problem
        rest, costs = decided_costs(problem, self.decisions, problem.layer_costs(metric))
        picks = [each.index(min(each)) for each in costs]
        policy = decided(problem.space, self.decisions, picks)
        least = mean_bits(problem, policy, metric)
        cost = decision_cost(problem, self.decisions, least, metric).to(problem.device)
        cheapest = rest + sum(map(min, costs))
        return Constraint(metric, cost, limit * least / cheapest)

    def loads(self, p: Tensor) -> list[float]:
        """``E[B] / U`` for each limit."""
        return [float(c.cost(p.detach())) / c.limit for c in self.constraints]

    def contains(self, p: Tensor) -> bool:
        """Whether all expected costs are below their limits."""
        return max(self.loads(p)) < 1

    def penalty(self, p: Tensor, mu: float) -> Tensor:
        """The barriers of all limits; a scalar."""
        each = [barrier(c.cost(p), c.limit, mu) for c in self.constraints]
        return torch.stack(each).sum()

    @torch.no_grad()
    def enter(self, choices: Choices) -> float:
        """Raise the cheapest candidates' logits, in place, until the domain is reached.

        With several limits those of candidates that are within all of them.

        Returns:
            What was added, the smallest multiple of `PUSH` that is enough.
        """
        cheapest = torch.tensor(cheapest_picks(self.problem, self.decisions))
        one_hot = torch.nn.functional.one_hot(cheapest, choices.logits.shape[1])
        one_hot = one_hot.to(choices.logits)
        least = [float(c.cost(one_hot)) for c in self.constraints]
        goals = [b + START * (c.limit - b) for b, c in zip(least, self.constraints, strict=True)]
        start, steps = choices.logits.clone(), 0
        while steps * PUSH < STEEPEST:
            p = choices.probabilities()
            costs = [float(c.cost(p)) for c in self.constraints]
            if all(cost <= goal for cost, goal in zip(costs, goals, strict=True)):
                break
            steps += 1
            choices.logits.copy_(start + steps * PUSH * one_hot)
        return steps * PUSH

    @torch.no_grad()
    def most_probable(self, p: Tensor) -> Policy:
        """The most probable network within the budget; the argmax of p where that is within it."""
        surprise = -p.detach().double().clamp_min(1e-300).log().cpu()
        # Rows of decisions with fewer candidates are filled up.
        values = [
            row[: len(decision.options)]
            for row, decision in zip(surprise.tolist(), self.decisions, strict=True)
        ]
        picks = least_within(self.problem, self.decisions, values)
        return decided(self.problem.space, self.decisions, picks)


def mean_bits(problem: Problem, policy: Policy, metric: str) -> float:
    """Mean bit product per multiply-accumulate, or mean weight bits where these alone count."""
    costs = problem.layer_costs(metric)
    acts = any(
        len({cost for (w, _), cost in table.items() if w == some}) > 1
        for table in costs.values()
        for some in {w for w, _ in table}
    )
    if not acts:
        return policy.mean_weight_bits(problem.layers)
    macs = sum(layer.macs for layer in problem.layers)
    products = (x.macs * policy[x.name].mean_weight * policy[x.name].act for x in problem.layers)
    return sum(products) / macs
