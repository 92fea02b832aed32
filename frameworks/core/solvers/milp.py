"""Multiple-choice knapsack, solved exactly.

    minimise    sum_i sum_o value_io x_io
    subject to  sum_o x_io = 1                                  for every item i
                sum_i sum_o cost^m_io x_io <= limit^m           for every metric m
                x_io in {0, 1}

with tied items (equal options) and, optionally, a chain of items whose options must not grow along
it. Options that another one beats in everything are dropped first. Without a chain the branch and
bound of `frameworks.core.solvers.knapsack` finds the optimum; with one, or where that gives up, an
integer programme does, by SciPy's HiGHS with a relative gap of 0. HiGHS accepts rows that are
violated by about 1e-6, so that its answer is checked in exact sums, and cut off and replaced if it
is over a limit.

Optimal means: no choice within the limits is better by more than 1e-12 of the summed ranges of the
items' values. Of options with equal value and costs, the earlier one is taken; among several
optimal choices, which one is not specified, but the same input gives the same one.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import sys
from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from frameworks.core.solvers.knapsack import Knapsack, Unproven, solve
from frameworks.core.solvers.limits import TOLERANCE, InfeasibleBudget


class Option(Hashable, Protocol):
    """What an item can take: bits, or a pair of bits."""

    def __ge__(self, other: Any, /) -> bool: ...


K = TypeVar("K", bound=Option)
Entry = tuple[float, Mapping[str, float]]
"""The value of an option and its cost per metric."""

OBJECTIVE_SCALE = 1e6
"""Sum of the values' ranges as HiGHS sees it: its absolute gap of 1e-6 then means 1e-12."""
ROW_SCALE = 1e3
MAX_CUTS = 1000


def multiple_choice(
    table: Mapping[str, Mapping[K, Entry]],
    limits: Mapping[str, float],
    *,
    ties: Sequence[Sequence[str]] = (),
    descending: Sequence[str] = (),
) -> dict[str, K]:
    """One option for each item, of least total value within all limits.

    Args:
        table: item to option to (value, cost per metric).
        limits: the largest total cost per metric; the total may pass it by rounding (1e-9) only.
        ties: groups of items that take the same option; the options that not all have are left out.
        descending: items in an order along which the option must not grow.

    Raises:
        InfeasibleBudget: no choice is within the limits; the message gives the smallest costs.
        ValueError: an item without options, or a value or cost that is not finite.
    """
    groups = tied(list(table), ties)
    merged = [summed(table, group, limits) for group in groups]
    _check_limits(merged, limits)
    index = {name: i for i, group in enumerate(groups) for name in group}
    chain = [index[name] for name in descending]
    kept = [
        options if i in chain else _undominated(options, limits) for i, options in enumerate(merged)
    ]
    chosen = _Programme(kept, limits, chain).solve() if chain else _search(kept, limits)
    return {name: chosen[index[name]] for name in table}


def tied(names: Sequence[str], ties: Sequence[Sequence[str]]) -> list[tuple[str, ...]]:
    """The items in groups, overlapping ties put together, in the order of the first members."""
    group = {name: {name} for name in names}
    for tie in ties:
        unknown = [name for name in tie if name not in group]
        if unknown:
            raise ValueError(f"tied items {unknown} are not in the table")
        together = set().union(*(group[name] for name in tie))
        for name in together:
            group[name] = together
    ordered = {name: tuple(n for n in names if n in group[name]) for name in names}
    return [members for name, members in ordered.items() if members[0] == name]


def summed(
    table: Mapping[str, Mapping[K, Entry]], group: Sequence[str], metrics: Collection[str]
) -> dict[K, Entry]:
    """The common options of tied items with their summed values and costs.

    Raises:
        ValueError: there is none, or a value or cost that is not finite.
    """
    common = [o for o in table[group[0]] if all(o in table[name] for name in group)]
    if not common:
        raise ValueError(f"{' and '.join(group)}: no option" + " in common" * (len(group) > 1))
    merged: dict[K, Entry] = {}
    for option in common:
        entries = [table[name][option] for name in group]
        value = math.fsum(v for v, _ in entries)
        costs = {m: math.fsum(c[m] for _, c in entries) for m in metrics}
        if not all(map(math.isfinite, (value, *costs.values()))):
            raise ValueError(f"{group[0]} at {option}: value {value} and costs {costs} not finite")
        merged[option] = (value, costs)
    return merged


def _undominated(options: Mapping[K, Entry], limits: Mapping[str, float]) -> dict[K, Entry]:
    """Without options that another one beats or (earlier in the order) equals in everything."""
    rows = _rows(options, limits)
    below = (rows[:, None] <= rows).all(2)  # [j, i]: option j is nowhere above option i
    earlier = np.tri(len(rows), k=-1, dtype=bool).T
    beaten = np.any(below & (~below.T | earlier), axis=0)
    return {o: entry for (o, entry), out in zip(options.items(), beaten, strict=True) if not out}


def _rows(options: Mapping[K, Entry], limits: Mapping[str, float]) -> np.ndarray:
    """``[options, 1 + metrics]``: values and costs."""
    return np.array([(value, *(costs[m] for m in limits)) for value, costs in options.values()])


def _room(items: Sequence[Mapping[K, Entry]], metric: str, limit: float) -> float:
    """What the limit leaves above the items' smallest costs."""
    return max(limit * (1 + TOLERANCE) - _smallest(items, metric), 0.0)


def _smallest(items: Sequence[Mapping[K, Entry]], metric: str) -> float:
    return math.fsum(min(c[metric] for _, c in options.values()) for options in items)


def _affordable(options: Mapping[K, Entry], rooms: Mapping[str, float]) -> dict[K, Entry]:
    """Without options that alone cost more than there is room for (rounding is left open)."""
    least = {m: min(c[m] for _, c in options.values()) for m in rooms}
    return {
        o: (v, c)
        for o, (v, c) in options.items()
        if all(
            c[m] - least[m] <= room * (1 + TOLERANCE) + 1e-15 * abs(c[m])
            for m, room in rooms.items()
        )
    }


def _search(items: Sequence[Mapping[K, Entry]], limits: Mapping[str, float]) -> list[K]:
    """The best choice by branch and bound, by the integer programme where that gives up."""
    metrics = list(limits)
    rooms = [_room(items, metric, limits[metric]) for metric in metrics]
    items = [_affordable(options, dict(zip(metrics, rooms, strict=True))) for options in items]
    if not all(items) or not all(_allowed(_smallest(items, m), limits[m]) for m in metrics):
        raise InfeasibleBudget("no choice is within all limits together")
    rooms = [_room(items, metric, limits[metric]) for metric in metrics]
    if all(len(options) == 1 for options in items):
        return [next(iter(options)) for options in items]
    rows = [_rows(options, limits) for options in items]
    flat = np.concatenate(rows)
    names = [option for options in items for option in options]
    bounds = [limits[metric] for metric in metrics]

    def within(chosen: np.ndarray) -> bool:
        return all(
            _allowed(math.fsum(column), limit)
            for column, limit in zip(flat[chosen, 1:].T, bounds, strict=True)
        )

    problem = Knapsack.build(rows, rooms, bounds, within)
    try:
        chosen = solve(problem)
    except Unproven as given_up:
        owners = problem.owners(given_up.options)
        left = [
            {names[o]: options[names[o]] for o in given_up.options[owners == i]}
            for i, options in enumerate(items)
        ]
        return _Programme(left, limits, ()).solve()
    if chosen is None:
        raise InfeasibleBudget("no choice is within all limits together")
    return [names[o] for o in chosen]


def _check_limits(merged: Sequence[Mapping[K, Entry]], limits: Mapping[str, float]) -> None:
    for metric, limit in limits.items():
        smallest = _smallest(merged, metric)
        if not _allowed(smallest, limit):
            raise InfeasibleBudget(
                f"no choice has {metric} of at most {limit:.6g}; the smallest is {smallest:.6g}"
            )


def _allowed(cost: float, limit: float) -> bool:
    return cost <= limit * (1 + TOLERANCE)


class _Programme(Generic[K]):
    """The integer programme over merged items."""

    def __init__(
        self,
        items: Sequence[Mapping[K, Entry]],
        limits: Mapping[str, float],
        chain: Sequence[int],
    ) -> None:
        self.items, self.limits = items, limits
        self.variables = [(i, option) for i, options in enumerate(items) for option in options]
        self.upper = np.ones(len(self.variables))
        self.rows: list[tuple[np.ndarray, float, float]] = []
        self._one_each()
        self._budgets()
        self._descending(chain)

    def _one_each(self) -> None:
        for i in range(len(self.items)):
            row = np.array([float(j == i) for j, _ in self.variables])
            self.rows.append((row, 1.0, 1.0))

    def _budgets(self) -> None:
        """Costs above each item's smallest, relative to what the limit leaves for them."""
        for metric, limit in self.limits.items():
            least = [min(c[metric] for _, c in options.values()) for options in self.items]
            extra = np.array([self.items[i][o][1][metric] - least[i] for i, o in self.variables])
            room = max(limit * (1 + TOLERANCE) - math.fsum(least), 0.0)
            # What alone is too costly is ruled out by its bound: no coefficient exceeds the room.
            self.upper[extra > room] = 0.0
            extra[extra > room] = 0.0
            scale = ROW_SCALE / (room or 1.0)
            self.rows.append((extra * scale, -np.inf, room * scale))

    def _descending(self, chain: Sequence[int]) -> None:
        """For every threshold: the later item reaches it only if the earlier one does."""
        thresholds = dict.fromkeys(o for i in chain for o in self.items[i])
        for earlier, later in pairwise(chain):
            for least in thresholds:
                row = np.array(
                    [
                        float(o >= least) * (float(i == later) - float(i == earlier))
                        for i, o in self.variables
                    ]
                )
                self.rows.append((row, -np.inf, 0.0))

    def solve(self) -> list[K]:
        """The best choice whose exact costs are within the limits."""
        least = [min(v for v, _ in options.values()) for options in self.items]
        values = np.array([self.items[i][o][0] - least[i] for i, o in self.variables])
        values *= OBJECTIVE_SCALE / (values.sum() or 1.0)
        for _ in range(MAX_CUTS):
            x = _highs(values, self.upper, self.rows)
            chosen = {i: o for (i, o), on in zip(self.variables, x > 0.5, strict=True) if on}
            if self._within(chosen):
                return [chosen[i] for i in range(len(self.items))]
            self.rows.append(((x > 0.5).astype(float), -np.inf, len(self.items) - 1.0))
        raise RuntimeError(f"no choice within the limits after {MAX_CUTS} cuts")

    def _within(self, chosen: Mapping[int, K]) -> bool:
        return all(
            _allowed(math.fsum(self.items[i][o][1][metric] for i, o in chosen.items()), limit)
            for metric, limit in self.limits.items()
        )


def _highs(
    values: np.ndarray, upper: np.ndarray, rows: Sequence[tuple[np.ndarray, float, float]]
) -> np.ndarray:
    # SciPy's optimizers take a while to import, and most solutions do without.
    from scipy.optimize import Bounds, LinearConstraint, milp

    matrix, low, high = (np.array(part) for part in zip(*rows, strict=True))
    with _stdout_to_stderr():
        result = milp(
            values,
            constraints=LinearConstraint(matrix, low, high),
            integrality=np.ones(len(values)),
            bounds=Bounds(0, upper),
            options={"mip_rel_gap": 0},
        )
    if result.status == 2:
        raise InfeasibleBudget("no choice is within all limits (and orders) together")
    if result.status != 0:
        raise RuntimeError(f"the integer programme was not solved: {result.message}")
    solution: np.ndarray = result.x
    return solution


@contextlib.contextmanager
def _stdout_to_stderr() -> Iterator[None]:
    """HiGHS sometimes prints a stray line from C; keep it out of machine-readable output."""
    sys.stdout.flush()
    try:
        kept = os.dup(1)
        os.dup2(2, 1)
    except OSError:  # a process without standard streams
        yield
        return
    try:
        yield
    finally:
        with contextlib.suppress(OSError, TypeError):
            ctypes.CDLL(None).fflush(None)
        os.dup2(kept, 1)
        os.close(kept)
