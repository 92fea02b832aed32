"""Budgets: a metric of the target and its limit."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from frameworks.core.policy import LayerBits, Policy
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
        like: no costlier than the uniform policy with this many weight and activation bits (what
            lies between two bit widths that the hardware runs is on the line between their costs).
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
            low, high = self._neighbours(target, space)
            limit = uniform(low)
            if high > low:
                limit += (self.like - low) / (high - low) * (uniform(high) - limit)
        elif self.ratio is not None:
            limit = self.ratio * uniform(8)
        else:
            assert self.limit is not None
            limit = self.limit
        budget = Budget(metric, limit, target.metrics[metric], self.label)
        smallest = target.cost(space.layers, cheapest(target, space, metric))[metric]
        if not budget.allows({metric: smallest}):
            raise InfeasibleBudget(
                f"budget {self.label}: no policy costs at most {limit:.6g} {budget.unit}; "
                f"the smallest cost of this space on {target.name} is {smallest:.6g}"
            )
        return budget

    def _neighbours(self, target: Target, space: Space) -> tuple[int, int]:
        """The nearest bits to either side of ``like`` at which the hardware runs all layers."""
        assert self.like is not None
        runs = [
            bits
            for bits in range(1, 9)
            if all(
                target.supports(layer, *_pair(space.reference(bits, bits)[layer.name]))
                for layer in space.layers
            )
        ]
        low = max((bits for bits in runs if bits <= self.like), default=None)
        high = min((bits for bits in runs if bits >= self.like), default=None)
        if low is None or high is None:
            raise InfeasibleBudget(
                f"budget {self.label}: {target.name} runs this model uniformly at "
                f"{runs or 'none'} of 1 to 8 bits; give like between these, or ratio or limit"
            )
        return low, high


def _pair(bits: LayerBits) -> tuple[int, int]:
    assert isinstance(bits.weight, int)
    return bits.weight, bits.act


def cheapest(target: Target, space: Space, metric: str) -> Policy:
    """A policy of the space of least cost, and of such policies one to which no bits can be added.

    Of a table of measurements, or where hardware unpacks operands, fewer bits are not always
    cheaper. Where a layer costs the same at several bits, it takes the most: what is free is not
    left unused. If the cost is no sum over layers, it starts from the fewest bits.
    """
    if not target.separable:
        return _raised_freely(target, space, metric)
    tied = {name: group for group in space.groups for name in group}
    layers = {layer.name: layer for layer in space.layers}
    best: dict[str, tuple[int, int]] = {}
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
        least = min(costs.values()) * (1 + TOLERANCE)
        chosen = max((p for p in costs if costs[p] <= least), key=lambda p: (sum(p), p))
        best.update(dict.fromkeys(names, chosen))
    return Policy({name: best[name] for name in space.names})


def _raised_freely(target: Target, space: Space, metric: str) -> Policy:
    """The policy of the fewest bits with each decision in turn at the most that cost no more."""
    values = [choice.bits[0] for choice in space.choices]
    least = target.cost(space.layers, space.decode(values))[metric] * (1 + TOLERANCE)
    for i, choice in enumerate(space.choices):
        for bits in reversed(choice.bits):
            raised = [*values[:i], bits, *values[i + 1 :]]
            if target.cost(space.layers, space.decode(raised))[metric] <= least:
                values = raised
                break
    return space.decode(values)


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
