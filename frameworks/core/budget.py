"""Budgets: metrics of the target and their limits."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from numbers import Real
from typing import Any

from frameworks.core.policy import LayerBits, Policy
from frameworks.core.solvers.limits import TOLERANCE, InfeasibleBudget
from frameworks.core.solvers.milp import multiple_choice
from frameworks.core.space import Space
from frameworks.core.target import Target, UnsupportedBits

Price = Callable[[Mapping[str, float]], float]


@dataclass(frozen=True)
class BudgetSpec:
    """How a budget is asked for; exactly one of like, ratio, limit and metrics is set.

    Attributes:
        like: no costlier than the uniform policy with this many weight and activation bits (what
            lies between two bit widths that the hardware runs is on the line between their costs).
        ratio: this share of the cost of uniform 8-bit.
        limit: an absolute number, in the metric's unit.
        metric: which metric of the target; None for its default.
        metrics: several limits at once, all to be met: for each metric one of like, ratio and
            limit, as in ``{"size": {"like": 4}, "latency": {"ratio": 0.5}}``. The first metric is
            the one that is reported and drawn.
    """

    like: float | None = None
    ratio: float | None = None
    limit: float | None = None
    metric: str | None = None
    metrics: Mapping[str, Mapping[str, float]] | None = None

    def __post_init__(self) -> None:
        given = {k: v for k in ("like", "ratio", "limit") if (v := getattr(self, k)) is not None}
        if self.metrics is not None:
            if given or self.metric:
                raise ValueError(
                    "budget.metrics has the limits of several metrics: give each its own in there, "
                    "and none of like, ratio, limit and metric beside it"
                )
            self._check_parts(self.metrics)
            return
        if len(given) != 1:
            raise ValueError(
                "budget: give exactly one of like, ratio and limit (or metrics, for several "
                f"limits), not {given or 'none'}"
            )
        name, value = next(iter(given.items()))
        if isinstance(value, bool) or not isinstance(value, Real):
            raise ValueError(f"budget.{name} = {value!r:.60}: give a number")
        if not (math.isfinite(value) and float(value) > 0):
            raise ValueError(f"budget.{name} = {value} must be a positive number")
        if self.like is not None and not 1 <= self.like <= 8:
            raise ValueError(f"budget.like = {self.like} lies outside 1..8 bits")

    @staticmethod
    def _check_parts(metrics: Any) -> None:
        example = "{size: {like: 4}, latency: {ratio: 0.5}}"
        if not isinstance(metrics, Mapping) or not metrics:
            raise ValueError(f"budget.metrics = {metrics!r}: give metrics such as {example}")
        for metric, part in metrics.items():
            if not isinstance(part, Mapping) or part.keys() - {"like", "ratio", "limit"}:
                raise ValueError(
                    f"budget.metrics.{metric} = {part!r}: give one of like, ratio and limit, as in "
                    f"{example}"
                )
            try:
                BudgetSpec(**part)
            except ValueError as error:
                raise ValueError(f"budget.metrics.{metric}: {error}") from error

    @property
    def parts(self) -> tuple[BudgetSpec, ...]:
        """The request for each metric."""
        if self.metrics is None:
            return (self,)
        return tuple(
            BudgetSpec(part.get("like"), part.get("ratio"), part.get("limit"), metric)
            for metric, part in self.metrics.items()
        )

    @property
    def label(self) -> str:
        """Short text such as ``like=4``, as the table shows it."""
        if self.metrics is not None:
            return " and ".join(part.label for part in self.parts)
        name = next(k for k in ("like", "ratio", "limit") if getattr(self, k) is not None)
        text = f"{name}={getattr(self, name):g}"
        return f"{text} {self.metric}" if self.metric else text

    def resolve(self, target: Target, space: Space) -> Budget:
        """The numbers behind the request.

        Raises:
            ValueError: the target has no such metric.
            InfeasibleBudget: no policy can meet it; the message gives the smallest cost.
        """
        self._check_metrics(target)
        bounds = [part._bound(target, space) for part in self.parts]
        budget = Budget(
            bounds[0].metric, bounds[0].limit, bounds[0].unit, self.label, tuple(bounds[1:])
        )
        for part, bound in zip(self.parts, bounds, strict=True):
            smallest = target.cost(space.layers, cheapest(target, space, bound.metric))
            if not bound.allows(smallest):
                raise InfeasibleBudget(
                    f"budget {part.label}: no policy costs at most {bound.limit:.6g} {bound.unit}; "
                    f"the smallest cost of this space on {target.name} is "
                    f"{smallest[bound.metric]:.6g}"
                )
        found = target.cost(space.layers, least(target, space, budget))
        if not budget.allows(found):
            met = ", ".join(f"{found[b.metric]:.6g} {b.unit} of {b.limit:.6g}" for b in bounds)
            raise InfeasibleBudget(
                f"budget {self.label}: no policy was found that meets all limits at once on "
                f"{target.name}; the nearest has {met}"
            )
        return budget

    def _check_metrics(self, target: Target) -> None:
        """Refuse a metric that the target has not, by the key that names it."""
        for metric in [self.metric] if self.metrics is None else self.metrics:
            if metric is None or metric in target.metrics:
                continue
            key = "budget.metric" if self.metrics is None else f"budget.metrics.{metric}"
            near = get_close_matches(str(metric), target.metrics, 1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            raise ValueError(
                f"{key}: {target.name} has no {metric!r}{hint}; choose from {list(target.metrics)}"
            )

    def _bound(self, target: Target, space: Space) -> Bound:
        """The limit of a request for one metric."""
        metric = self.metric or target.metric

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
        return Bound(metric, limit, target.metrics[metric])

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


@dataclass(frozen=True)
class Bound:
    """A metric, its limit and its unit."""

    metric: str
    limit: float
    unit: str = ""

    def allows(self, costs: Mapping[str, float]) -> bool:
        """Whether a policy with these costs is within the limit."""
        return costs[self.metric] <= self.limit * (1 + TOLERANCE)


@dataclass(frozen=True)
class Budget:
    """Limits that a policy must meet: of one metric, or of several.

    Attributes:
        metric, limit, unit: the first limit.
        label: how it was asked for.
        others: further limits.
    """

    metric: str
    limit: float
    unit: str = ""
    label: str = ""
    others: tuple[Bound, ...] = ()

    @property
    def bounds(self) -> tuple[Bound, ...]:
        """All limits, the first one first."""
        return (Bound(self.metric, self.limit, self.unit), *self.others)

    @property
    def limits(self) -> dict[str, float]:
        """The limit of each metric."""
        return {bound.metric: bound.limit for bound in self.bounds}

    def allows(self, costs: Mapping[str, float]) -> bool:
        """Whether a policy with these costs is within all limits."""
        return all(bound.allows(costs) for bound in self.bounds)

    def load(self, costs: Mapping[str, float]) -> float:
        """What a policy costs by the metric that is nearest to (or farthest over) its limit.

        In the first metric's unit, as if all had its limit: the policy is within the budget where
        this is at most ``limit``. With one metric it is the cost.
        """
        return max(self._scaled(costs))

    def price(self, costs: Mapping[str, float], metrics: Iterable[str] | None = None) -> float:
        """One additive price for methods that know a single cost: the mean over the metrics.

        In the first metric's unit, each scaled as if it had the first one's limit, so that what is
        within the budget costs at most ``limit`` (not the other way round: use `allows`). With one
        metric it is the cost.

        Args:
            costs: of a policy, or of a part of the network.
            metrics: the mean is taken over these alone; all by default.
        """
        chosen = None if metrics is None else set(metrics)
        scaled = self._scaled(costs, chosen)
        return sum(scaled) / len(scaled)

    def exceeded(self, costs: Mapping[str, float]) -> list[str]:
        """The metrics whose limits a policy with these costs passes."""
        return [bound.metric for bound in self.bounds if not bound.allows(costs)]

    def _scaled(self, costs: Mapping[str, float], only: set[str] | None = None) -> list[float]:
        found = [costs[self.metric]] if only is None or self.metric in only else []
        return found + [
            costs[bound.metric] * (self.limit / bound.limit)
            for bound in self.others
            if only is None or bound.metric in only
        ]


def least(target: Target, space: Space, budget: Budget) -> Policy:
    """A policy that meets the budget if any does; else the nearest to it of those tried.

    With one metric that is a cheapest policy, which meets any budget that can be met. With several,
    the cheapest by `Budget.price` and by each metric are tried; where more bits never cost less,
    they are the same in every metric. Where fewer bits of one metric cost more of another, none of
    them need meet all limits: then it is an integer programme's choice (of targets whose cost is a
    sum over layers; of others what was tried is all that is known).
    """
    tried = [cheapest(target, space, bound.metric) for bound in budget.bounds]
    if budget.others:
        tried.insert(0, _cheapest(target, space, budget.price))
    nearest = min(tried, key=lambda policy: budget.load(target.cost(space.layers, policy)))
    if not budget.others or budget.allows(target.cost(space.layers, nearest)):
        return nearest
    return _within(target, space, budget) or nearest


def cheapest(target: Target, space: Space, metric: str) -> Policy:
    """A policy of the space of least cost, and of such policies one to which no bits can be added.

    Of a table of measurements, or where hardware unpacks operands, fewer bits are not always
    cheaper. Where a layer costs the same at several bits, it takes the most: what is free is not
    left unused. If the cost is no sum over layers, it starts from the fewest bits.
    """
    return _cheapest(target, space, lambda costs: costs[metric])


def _cheapest(target: Target, space: Space, price: Price) -> Policy:
    if not target.separable:
        return _raised_freely(target, space, price)
    best: dict[str, tuple[int, int]] = {}
    for names, options in _costs(target, space):
        costs = {pair: price(each) for pair, each in options.items()}
        lowest = min(costs.values()) * (1 + TOLERANCE)
        chosen = max((p for p in costs if costs[p] <= lowest), key=lambda p: (sum(p), p))
        best.update(dict.fromkeys(names, chosen))
    return Policy({name: best[name] for name in space.names})


def _within(target: Target, space: Space, budget: Budget) -> Policy | None:
    """The policy of least price within all limits; None where there is none, or none is known."""
    if not target.separable:
        return None
    groups = {names: options for names, options in _costs(target, space)}
    table = {
        names[0]: {pair: (budget.price(costs), costs) for pair, costs in options.items()}
        for names, options in groups.items()
    }
    try:
        chosen = multiple_choice(table, budget.limits)
    except InfeasibleBudget:
        return None
    best = {name: chosen[names[0]] for names in groups for name in names}
    return Policy({name: best[name] for name in space.names})


def _costs(
    target: Target, space: Space
) -> Iterator[tuple[tuple[str, ...], dict[tuple[int, int], dict[str, float]]]]:
    """Tied layers, and what they cost together, in every metric, at the bits they can have."""
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
        yield (
            names,
            {
                pair: target.cost(members, Policy(dict.fromkeys(names, pair)))
                for pair in pairs or every  # a target names what it lacks when asked for its cost
            },
        )


def _raised_freely(target: Target, space: Space, price: Price) -> Policy:
    """The policy of the fewest bits with each decision in turn at the most that cost no more."""
    values = [choice.bits[0] for choice in space.choices]
    fewest = price(target.cost(space.layers, space.decode(values))) * (1 + TOLERANCE)
    for i, choice in enumerate(space.choices):
        for bits in reversed(choice.bits):
            raised = [*values[:i], bits, *values[i + 1 :]]
            try:
                free = price(target.cost(space.layers, space.decode(raised))) <= fewest
            except UnsupportedBits:  # of the space, but not of the target
                continue
            if free:
                values = raised
                break
    return space.decode(values)
