"""Policies of the walk (arXiv 2302.05397): what groups cost, the cheapest, and the Pareto curve."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch

from frameworks.core.policy import LayerBits, Pair, Policy
from frameworks.core.problem import Problem
from frameworks.core.solution import Point

Step = tuple[float, Policy]
"""A policy of the walk, and the SQNR of the flip that led to it (of the start: `CLEAN`)."""
CLEAN = 120.0
"""In dB, the noise of single precision itself: no ratio is above it, none below its negative."""
POINTS = 16
"""Policies of the walk that are reported as its Pareto curve."""


def prices_of(
    problem: Problem, names: Sequence[str], menu: Sequence[Pair], metric: str | None = None
) -> dict[Pair, float]:
    """What a group costs at each of its candidates: by a metric, or as one price of all limits."""
    costs = problem.layer_costs(metric)
    return {pair: math.fsum(costs[name][pair] for name in names) for pair in menu}


def at(policy: Policy, names: Sequence[str], pair: Pair) -> Policy:
    """A policy with a group at a candidate."""
    return Policy({**policy, **{name: LayerBits(*pair) for name in names}})


def cheapest(
    problem: Problem, groups: Sequence[Sequence[str]], menus: Sequence[Sequence[Pair]]
) -> Policy:
    """Every group at its cheapest candidate: by one price of all limits, or by one of the metrics.

    Of these policies the one that is farthest within the budget, or nearest to it.
    """
    tried = []
    for metric in (None, *problem.budget.limits):
        policy = problem.space.highest()
        for names, menu in zip(groups, menus, strict=True):
            prices = prices_of(problem, names, menu, metric)
            policy = at(policy, names, min(prices, key=prices.__getitem__))
        tried.append(policy)
    return min(tried, key=lambda policy: problem.budget.load(problem.cost(policy)))


def noisiest(
    policy: Policy, groups: Sequence[Sequence[str]], rated: Sequence[Mapping[Pair, float]]
) -> float:
    """The least SQNR of the candidates that groups are at; the highest of each has none."""
    return min(
        (
            ratio
            for names, row in zip(groups, rated, strict=True)
            for pair, ratio in row.items()
            if policy[names[0]] == LayerBits(*pair)
        ),
        default=CLEAN,
    )


def curve(problem: Problem, steps: Sequence[Step], end: int) -> tuple[Point, ...]:
    """The walk as a Pareto curve of cost and of the noise of its noisiest flip (-SQNR, in dB)."""
    places = {*torch.linspace(1, len(steps) - 1, POINTS).round().int().tolist(), end} - {0}
    metric = problem.budget.metric
    return tuple(
        Point(policy, {"noise": -ratio, metric: problem.cost(policy)[metric]})
        for ratio, policy in (steps[k] for k in sorted(places) if k < len(steps))
    )
