"""Budgets: a metric of the target and its limit."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from frameworks.core.policy import Policy
from frameworks.core.space import Space
from frameworks.core.target import Target

TOLERANCE = 1e-9
"""Relative slack of a limit, for sums in another order."""


class InfeasibleBudget(ValueError):
    """No policy of the space meets the budget."""


@dataclass(frozen=True)
class BudgetSpec:
    """How a budget is asked for; exactly one of the first three is set.

    Attributes:
        like: no costlier than the uniform policy with this many weight and activation bits (a
            fraction lies on the line between the costs of its two neighbours).
        ratio: this share of the cost of uniform 8-bit.
        limit: an absolute number, in the metric's unit.
        metric: which metric of the target; None for its default.
    """

    like: float | None = None
    ratio: float | None = None
    limit: float | None = None
    metric: str | None = None

    def __post_init__(self) -> None:
        given = {k: v for k in ("like", "ratio", "limit") if (v := getattr(self, k)) is not None}
        if len(given) != 1:
            raise ValueError(
                f"budget: give exactly one of like, ratio and limit, not {given or 'none'}"
            )
        name, value = next(iter(given.items()))
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"budget.{name} = {value} must be a positive number")
        if self.like is not None and not 1 <= self.like <= 8:
            raise ValueError(f"budget.like = {self.like} lies outside 1..8 bits")

    @property
    def label(self) -> str:
        """Short text such as ``like=4``, as the table shows it."""
        name = next(k for k in ("like", "ratio", "limit") if getattr(self, k) is not None)
        text = f"{name}={getattr(self, name):g}"
        return f"{text} {self.metric}" if self.metric else text

    def resolve(self, target: Target, space: Space) -> Budget:
        """The number behind the request.

        Raises:
            ValueError: the target has no such metric.
            InfeasibleBudget: no policy can meet it; the message gives the smallest cost.
        """
        metric = self.metric or target.metric
        if metric not in target.metrics:
            raise ValueError(
                f"budget.metric: {target.name} has no {metric!r}; "
                f"choose from {list(target.metrics)}"
            )

        def uniform(bits: int) -> float:
            return target.cost(space.layers, space.reference(bits, bits))[metric]

        if self.like is not None:
            low, share = math.floor(self.like), self.like % 1
            limit = uniform(low)
            if share:
                limit += share * (uniform(low + 1) - limit)
        elif self.ratio is not None:
            limit = self.ratio * uniform(8)
        else:
            assert self.limit is not None
            limit = self.limit
        budget = Budget(metric, limit, target.metrics[metric], self.label)
        smallest = _smallest(target, space, metric)
        if not budget.allows({metric: smallest}):
            raise InfeasibleBudget(
                f"budget {self.label}: no policy costs at most {limit:.6g} {budget.unit}; "
                f"the smallest cost of this space on {target.name} is {smallest:.6g}"
            )
        return budget


def cheapest(target: Target, space: Space, metric: str) -> Policy:
    """The policy of least cost, of equal ones that of the fewest bits; that, too, if it is no sum.

    Of a table of measurements fewer bits are not always cheaper.
    """
    if not target.separable:
        return space.lowest()
    bits = {name: pair for names, pair, _ in _cheapest(target, space, metric) for name in names}
    return Policy({name: bits[name] for name in space.names})


def _smallest(target: Target, space: Space, metric: str) -> float:
    """The least cost of a policy of the space."""
    if not target.separable:
        return target.cost(space.layers, space.lowest())[metric]
    return sum((cost for _, _, cost in _cheapest(target, space, metric)), 0.0)


def _cheapest(
    target: Target, space: Space, metric: str
) -> Iterator[tuple[tuple[str, ...], tuple[int, int], float]]:
    """The cheapest bits, and their cost, of each layer or group of tied layers."""
    tied = {name: group for group in space.groups for name in group}
    layers = {layer.name: layer for layer in space.layers}
    for names in dict.fromkeys(tied.get(name, (name,)) for name in space.names):
        members = [layers[name] for name in names]
        every = [
            (w, a)
            for w in space.weight_bits[names[0]]
            for a in space.act_bits[names[0]]
            if w == a or not space.paired
        ]
        pairs = [pair for pair in every if all(target.supports(x, *pair) for x in members)]
        costs = {
            pair: target.cost(members, Policy(dict.fromkeys(names, pair)))[metric]
            for pair in pairs or every  # a target names what it lacks when asked for its cost
        }
        best = min(costs, key=costs.__getitem__)
        yield names, best, costs[best]


@dataclass(frozen=True)
class Budget:
    """A metric and its limit."""

    metric: str
    limit: float
    unit: str = ""
    label: str = ""

    def allows(self, costs: Mapping[str, float]) -> bool:
        """Whether a policy with these costs is within the limit."""
        return costs[self.metric] <= self.limit * (1 + TOLERANCE)
