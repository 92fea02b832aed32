"""Exact multiple-choice knapsack with several budgets, by branch and bound over many Lagrangians.

Values are scaled so that their ranges sum to 1, costs so that every budget has room for 1. For any
multipliers lambda >= 0 and a choice of the first p items with value v and cost c,

    v + c . lambda + sum_{i > p} min_o (value_io + cost_io . lambda) - sum(lambda)

bounds every completion from below (Lagrangian relaxation). One lambda, near the best, leaves a gap
that lets millions of choices through; a few hundred around it cost a matrix product, and the
largest of their bounds follows what a partial choice has left in every budget, as solving its own
linear programme would. Choices grow item by item, all at once as arrays; those whose bound is not
below the best choice known are dropped. First with few kept (a beam, which finds a good choice),
then with more; a round that dropped none for room is the proof. Options whose own bound is too high
are left out before each round (reduced-cost fixing).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

BEAMS = (64, 1024, 100_000)
"""Partial choices kept in each round."""
FAMILY = (0.02, 0.1, 0.4, 1.6)
"""Relative deviations of the multipliers around the best."""
MEMBERS = 60
"""Multipliers for each deviation."""
FIRST = 6
"""Options of each item in the first round."""
GAP = 1e-12
"""Choices that are better by less, as a share of the values' summed ranges, may be missed."""
ROUNDING = 1e-12


class Unproven(RuntimeError):
    """Too many choices stayed open; ``options`` are those that the best one is among."""

    def __init__(self, options: np.ndarray) -> None:
        super().__init__("too many partial choices")
        self.options = options


@dataclass(frozen=True)
class Knapsack:
    """Items as consecutive options.

    Attributes:
        values: ``[N]``, scaled; the smallest of each item is 0.
        costs: ``[N, M]``, scaled; the smallest of each item is 0, and at most 1 may be spent.
        starts: ``[n]``, where each item's options begin.
        slack: ``[M]``, by how much sums may pass 1 through rounding; ``allowed`` decides then.
        allowed: whether a choice (an option of each item) is within the budgets, exactly.
    """

    values: np.ndarray
    costs: np.ndarray
    starts: np.ndarray
    slack: np.ndarray
    allowed: Callable[[np.ndarray], bool]

    @classmethod
    def build(
        cls,
        items: Sequence[np.ndarray],
        room: Sequence[float],
        limits: Sequence[float],
        allowed: Callable[[np.ndarray], bool],
    ) -> Knapsack:
        """Scale a table.

        Args:
            items: for each item ``[options, 1 + M]``, its value and costs.
            room: what the limits leave above the sums of the items' smallest costs.
            limits: the limits, whose size sets how far sums round.
            allowed: see the class.
        """
        starts = np.cumsum([0, *(len(item) for item in items[:-1])])
        shifted = np.concatenate([item - item.min(0) for item in items])
        ranges = math.fsum(float(np.ptp(item[:, 0])) for item in items)
        space = np.array([value or 1.0 for value in room])
        sizes = np.abs(limits) + space
        slack = ROUNDING + 4 * len(items) * np.finfo(float).eps * sizes / space
        return cls(shifted[:, 0] / (ranges or 1.0), shifted[:, 1:] / space, starts, slack, allowed)

    def owners(self, options: np.ndarray) -> np.ndarray:
        """The item of each option."""
        found: np.ndarray = np.searchsorted(self.starts, options, side="right") - 1
        return found


def solve(problem: Knapsack, seed: int = 0) -> np.ndarray | None:
    """The option of every item in the cheapest choice within the budgets, None if there is none.

    Raises:
        Unproven: the search was given up; another solver has to finish it.
    """
    multipliers = _multipliers(problem, np.random.default_rng(seed))
    every = np.flatnonzero((problem.costs <= 1 + problem.slack).all(1))
    best, bound = None, math.inf
    for beam in BEAMS:
        options = _fixed(problem, every, multipliers, bound, FIRST if beam == BEAMS[0] else None)
        if len(np.unique(problem.owners(options))) == len(problem.starts):
            found, complete = _grow(problem, options, multipliers, bound, beam)
            complete &= beam != BEAMS[0] or len(options) == len(every)
        else:
            found, complete = None, True  # an item has no option left that could be better
        if found is not None:
            best, bound = found, float(problem.values[found].sum())
        if complete:
            return best
    raise Unproven(_fixed(problem, every, multipliers, bound + 10 * GAP, None))


def _multipliers(problem: Knapsack, rng: np.random.Generator) -> np.ndarray:
    """Multipliers ``[K, M]``: the best found first, then some around it.

    Subgradient steps, then a random search with shrinking steps; any multipliers give bounds.
    """
    best = np.full(problem.costs.shape[1], 0.1)
    value, current, step = -math.inf, best, 0.1
    for _ in range(60):
        priced = problem.values + problem.costs @ current
        least = np.minimum.reduceat(priced, problem.starts)
        chosen = np.flatnonzero(priced <= np.repeat(least, _lengths(problem)))
        reached = float(least.sum() - current.sum())
        if reached > value:
            best, value = current, reached
        else:
            step *= 0.9
        # Of equal options, the last one of an item counts: any choice gives a subgradient.
        spent = np.zeros((len(problem.starts), len(current)))
        spent[problem.owners(chosen)] = problem.costs[chosen]
        slope = spent.sum(0) - 1
        current = np.maximum(current + step * slope / (np.linalg.norm(slope) + 1e-300), 0)
    spread = 0.3
    for _ in range(24):
        around = _around(best, spread, 12, rng)
        reached_by = _dual(problem, around)
        if reached_by.max() > value:
            best, value = around[reached_by.argmax()], float(reached_by.max())
        else:
            spread *= 0.6
    return np.concatenate([best[None], *(_around(best, s, MEMBERS, rng) for s in FAMILY)])


def _around(centre: np.ndarray, spread: float, count: int, rng: np.random.Generator) -> np.ndarray:
    scale = np.maximum(centre, 0.02 * centre.max())
    moved = centre + spread * scale * rng.standard_normal((count, len(centre)))
    return np.asarray(np.maximum(moved, 0))


def _lengths(problem: Knapsack) -> np.ndarray:
    return np.asarray(np.diff([*problem.starts, len(problem.values)]))


def _dual(problem: Knapsack, multipliers: np.ndarray) -> np.ndarray:
    """The Lagrangian bound for each of some multipliers."""
    priced = problem.values[:, None] + problem.costs @ multipliers.T
    least = np.minimum.reduceat(priced, problem.starts, axis=0)
    return np.asarray(least.sum(0) - multipliers.sum(1))


def _fixed(
    problem: Knapsack,
    options: np.ndarray,
    multipliers: np.ndarray,
    bound: float,
    most: int | None,
) -> np.ndarray:
    """The options that a choice better than the bound could hold, at most so many of an item."""
    for family in (multipliers[:1], multipliers):
        priced = problem.values[options, None] + problem.costs[options] @ family.T
        owners = problem.owners(options)
        items, starts = np.unique(owners, return_index=True)
        if len(items) < len(problem.starts):
            return options
        least = np.minimum.reduceat(priced, starts, axis=0)
        extra = priced - least[owners]
        if most is not None:
            order = np.lexsort((extra[:, 0], owners))
            return np.sort(options[order[np.arange(len(order)) - starts[owners[order]] < most]])
        if bound == math.inf:
            return options
        reached = (extra + (least.sum(0) - family.sum(1))).max(1)
        options = options[reached < bound - GAP]
    return options


def _grow(
    problem: Knapsack, options: np.ndarray, multipliers: np.ndarray, bound: float, beam: int
) -> tuple[np.ndarray | None, bool]:
    """The best choice below a bound, and whether no partial choice was dropped for room."""
    owners = problem.owners(options)
    items = [options[owners == i] for i in range(len(problem.starts))]
    # What weighs most first: its choices are few, and the small ones fill the budgets after it.
    weight = problem.costs @ multipliers[0]
    items.sort(key=lambda item: -float(np.ptp(weight[item])))
    rest = np.zeros((len(items) + 1, len(multipliers)))
    for p in range(len(items) - 1, -1, -1):
        priced = problem.values[items[p], None] + problem.costs[items[p]] @ multipliers.T
        rest[p] = rest[p + 1] + priced.min(0)
    values, costs = np.zeros(1), np.zeros((1, problem.costs.shape[1]))
    steps: list[tuple[np.ndarray, np.ndarray]] = []
    complete = True
    for p, item in enumerate(items):
        values = (values[:, None] + problem.values[item]).ravel()
        costs = (costs[:, None] + problem.costs[item]).reshape(len(values), costs.shape[1])
        offset = rest[p + 1] - multipliers.sum(1)
        open_ = (costs <= 1 + problem.slack).all(1)
        open_ &= values + costs @ multipliers[0] + offset[0] < bound - GAP
        kept = np.flatnonzero(open_)
        reached = (costs[kept] @ multipliers.T + offset).max(1, initial=-math.inf) + values[kept]
        kept, reached = kept[reached < bound - GAP], reached[reached < bound - GAP]
        if len(kept) > beam:
            kept, complete = kept[np.argpartition(reached, beam)[:beam]], False
        values, costs = values[kept], costs[kept]
        steps.append((kept // len(item), item[kept % len(item)]))
    for last in np.argsort(values, kind="stable"):
        found = _choice(problem, steps, int(last))
        if problem.allowed(found):
            return found, complete
    return None, complete


def _choice(
    problem: Knapsack, steps: Sequence[tuple[np.ndarray, np.ndarray]], last: int
) -> np.ndarray:
    """The options behind one of the last step's choices, in the order of the items."""
    chosen = []
    for parents, options in reversed(steps):
        chosen.append(options[last])
        last = int(parents[last])
    return np.sort(np.array(chosen))
