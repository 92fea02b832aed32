"""The Pareto frontier of what layers lose and what they cost, and the policy on it for a budget.

For methods whose estimate of a policy is a sum over layers and that find all its trade-offs with
the cost at once, in the place of one optimum (HAWQ-V2, ZeroQ).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from frameworks.core.policy import Pair, Policy
from frameworks.core.problem import Problem
from frameworks.core.search.sensitivities import Table
from frameworks.core.solution import Point
from frameworks.core.solvers.milp import multiple_choice
from frameworks.core.solvers.pareto import Choice, Frontier

Losses = dict[str, dict[Pair, tuple[float, float]]]
"""What a layer loses at a pair of bits, and its cost."""


@dataclass(frozen=True)
class Walk:
    """A frontier, and what is taken of it.

    Attributes:
        best: what loses least within the budget.
        front: some points of the frontier, the best among them, the cheapest first.
        length: how many points the frontier has.
    """

    best: Choice[Pair]
    front: tuple[Point, ...]
    length: int


def walk(
    problem: Problem,
    table: Table,
    *,
    bins: int,
    points: int,
    descending: Sequence[str] = (),
    loss: str = "omega",
) -> Walk:
    """The frontier of all policies of the space, or of those that keep an order.

    A frontier knows one cost. Of limits on several metrics it has the common price, and the choice
    within all of them is that of an exact programme.

    Args:
        table: what each layer loses at each pair of bits.
        bins: longest frontier that is kept exactly; a longer one is thinned by bins of cost.
        points: at most this many points are reported, and the best.
        descending: layers in an order along which weight bits must not grow.
        loss: what the losses are called in the points' objectives.

    Raises:
        InfeasibleBudget: no policy is within the budget, or none of those keeps the order.
    """
    priced = {
        name: {pair: (table[name][pair], cost) for pair, cost in costs.items()}
        for name, costs in problem.layer_costs().items()
    }
    frontier: Frontier[Pair] = Frontier(
        priced,
        ties=problem.space.groups,
        most=bins,
        descending=descending,
        rank=lambda pair: pair[0],
    )
    best = _best(problem, frontier, priced, descending)
    chosen = {choice.cost: choice for choice in [*frontier.spread(points), best]}
    metric = "price" if problem.budget.others else problem.budget.metric
    front = tuple(
        Point(Policy(chosen[cost].options), {loss: chosen[cost].value, metric: cost})
        for cost in sorted(chosen)
    )
    return Walk(best, front, len(frontier))


class _ByWeight(tuple[int, int]):
    """Weight and activation bits, compared by those of weights alone."""

    def __ge__(self, other: Any) -> bool:
        return bool(self[0] >= other[0])


def _best(
    problem: Problem, frontier: Frontier[Pair], priced: Losses, descending: Sequence[str]
) -> Choice[Pair]:
    """What loses least within the budget."""
    if not problem.budget.others:
        return frontier.within(problem.budget.limit)
    entries = {
        name: {_ByWeight(pair): (priced[name][pair][0], costs) for pair, costs in options.items()}
        for name, options in problem.layer_entries().items()
    }
    bits = multiple_choice(
        entries, problem.budget.limits, ties=problem.space.groups, descending=descending
    )
    options: dict[str, Pair] = {name: (pair[0], pair[1]) for name, pair in bits.items()}
    chosen = [priced[name][pair] for name, pair in options.items()]
    return Choice(options, sum(cost for _, cost in chosen), sum(value for value, _ in chosen))
