"""The Pareto frontier of a sum over layers, by dynamic programming.

Each item (layer) takes one option (bits), which has a cost and a value; both add up over the items.
The frontier of the first i items, the choices that no other one beats in cost and in value, comes
from that of the first i - 1 and the options of item i alone, because whatever is dominated stays
so whichever options follow:

    F_i = undominated { (c + c_io, v + v_io) : (c, v) in F_{i-1}, o an option of i }.

So m options and L items take m * L steps over a frontier in place of m^L choices (ZeroQ, Cai et
al., arXiv 2001.00281, on its Pareto frontier). Where a frontier grows too long, costs are put into
bins of equal width and the best choice of each bin is kept; costs remain exact.

Some items may be put in a chain along which options must not grow (HAWQ-V2, Dong et al., arXiv
1911.03852: a layer of less mean curvature never has more bits). They come last, in the chain's
order, and F_i has a part for each rank of the last option: what follows depends on it alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from frameworks.core.solvers.limits import TOLERANCE, InfeasibleBudget
from frameworks.core.solvers.milp import Option, summed, tied

K = TypeVar("K", bound=Option)
METRIC = "cost"


@dataclass(frozen=True)
class Choice(Generic[K]):
    """One point of a frontier: the option of every item, and the totals."""

    options: Mapping[str, K]
    cost: float
    value: float


class Frontier(Generic[K]):
    """All undominated choices; the costlier, the better.

    Args:
        table: item to option to (value, cost), the value to be minimised.
        ties: groups of items that take the same option; options that not all have are left out.
        most: longest frontier that is kept as it is; beyond it, costs are binned (in a chain, for
            each rank of its last option).
        descending: items in an order along which options must not grow in rank; tied ones are one.
        rank: what an option is compared by along it.

    Raises:
        ValueError: an item without options, or a value or cost that is not finite.
        InfeasibleBudget: no choice keeps the order.
    """

    def __init__(
        self,
        table: Mapping[str, Mapping[K, tuple[float, float]]],
        *,
        ties: Sequence[Sequence[str]] = (),
        most: int = 10_000,
        descending: Sequence[str] = (),
        rank: Callable[[K], Any] = lambda option: option,
    ) -> None:
        entries = {
            name: {o: (value, {METRIC: cost}) for o, (value, cost) in options.items()}
            for name, options in table.items()
        }
        self._names = list(table)
        self._groups, chained = _in_order(tied(self._names, ties), descending)
        self._options: list[list[K]] = []
        self._steps: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []
        self.costs, self.values = np.zeros(1), np.zeros(1)
        self._ranks = np.array([np.inf])
        for place, group in enumerate(self._groups):
            merged = summed(entries, group, (METRIC,))
            self._options.append(list(merged))
            last = place >= len(self._groups) - chained
            self._extend(
                np.array([costs[METRIC] for _, costs in merged.values()]),
                np.array([value for value, _ in merged.values()]),
                np.array([float(rank(o)) if last else np.inf for o in merged]),
                most,
            )
        self._join()

    def __len__(self) -> int:
        return len(self.costs)

    def _extend(
        self,
        costs: NDArray[np.float64],
        values: NDArray[np.float64],
        ranks: NDArray[np.float64],
        most: int,
    ) -> None:
        """The next frontier from the present one and the options of one more group."""
        cost = (self.costs[:, None] + costs).ravel()
        value = (self.values[:, None] + values).ravel()
        allowed = (ranks <= self._ranks[:, None]).ravel()
        reached = np.broadcast_to(ranks, (len(self), len(ranks))).ravel()
        if not allowed.any():
            raise InfeasibleBudget("no choice keeps the order of the items")
        parts = []
        for rank in np.unique(reached[allowed]):
            places = np.flatnonzero(allowed & (reached == rank))
            kept = places[_undominated(cost[places], value[places])]
            if len(kept) > most:
                kept = kept[_last_of_bins(cost[kept], most)]
            parts.append(kept)
        kept = np.concatenate(parts)
        self.costs, self.values, self._ranks = cost[kept], value[kept], reached[kept]
        self._steps.append((kept // len(costs), kept % len(costs)))

    def _join(self) -> None:
        """One frontier of those of all ranks."""
        kept = _undominated(self.costs, self.values)
        self.costs, self.values = self.costs[kept], self.values[kept]
        if self._steps:
            before, option = self._steps[-1]
            self._steps[-1] = before[kept], option[kept]

    def choice(self, index: int) -> Choice[K]:
        """The point at a position, the cheapest one first."""
        place, picked = index % len(self), {}
        for (before, option), options, group in zip(
            reversed(self._steps), reversed(self._options), reversed(self._groups), strict=True
        ):
            picked.update(dict.fromkeys(group, options[int(option[place])]))
            place = int(before[place])
        options_by_name = {name: picked[name] for name in self._names}
        return Choice(options_by_name, float(self.costs[index]), float(self.values[index]))

    def within(self, limit: float) -> Choice[K]:
        """The point of least value among those that cost at most the limit.

        Raises:
            InfeasibleBudget: the cheapest choice costs more.
        """
        count = int(np.searchsorted(self.costs, limit * (1 + TOLERANCE), "right"))
        if count == 0:
            raise InfeasibleBudget(
                f"no choice costs at most {limit:.6g}; the smallest cost is {self.costs[0]:.6g}"
            )
        return self.choice(count - 1)

    def spread(self, count: int) -> list[Choice[K]]:
        """At most ``count`` points, evenly over the frontier's length, both ends included."""
        places = np.unique(np.linspace(0, len(self) - 1, max(count, 1)).round().astype(int))
        return [self.choice(int(place)) for place in places]


def _in_order(
    groups: Sequence[tuple[str, ...]], descending: Sequence[str]
) -> tuple[list[tuple[str, ...]], int]:
    """The groups with those of a chain at the end, in its order; and how many these are."""
    home = {name: group for group in groups for name in group}
    chain = list(dict.fromkeys(home[name] for name in descending))
    return [*(group for group in groups if group not in chain), *chain], len(chain)


def _undominated(costs: NDArray[np.float64], values: NDArray[np.float64]) -> NDArray[np.int64]:
    """Where the points are that no other one beats in cost and in value, the cheapest first."""
    order = np.lexsort((values, costs))
    best = np.minimum.accumulate(values[order])
    kept: NDArray[np.int64] = order[np.concatenate([[True], best[1:] < best[:-1]])]
    return kept


def _last_of_bins(costs: NDArray[np.float64], count: int) -> NDArray[np.bool_]:
    """Marks, of ascending costs, the last one of each bin (it has the least value); and the first.

    The first is the cheapest choice, which must not be lost.
    """
    bins = np.floor((costs - costs[0]) / (costs[-1] - costs[0]) * (count - 1))
    last = np.append(bins[1:] != bins[:-1], True)
    last[0] = True
    return last
