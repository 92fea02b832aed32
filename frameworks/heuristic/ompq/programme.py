"""OMPQ's linear programme (arXiv 2109.07865), its solution by the released code, and rounding.

With x_i = b_i / 8, the coefficients c_i of `frameworks.heuristic.ompq.orthogonality.importance`
and costs of the present bits,

    maximise  sum_i c_i x_i   subject to   sum_i cost_i(x_i) <= limit,   low_i <= x_i <= high_i.

An item is what one x_i stands for: one or more layers of equal bits. Its cost between two bit
widths is on the line between theirs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise

import numpy as np

from frameworks.core.budget import Budget
from frameworks.core.solvers.limits import TOLERANCE, InfeasibleBudget
from frameworks.core.solvers.milp import Entry, multiple_choice, summed, tied

Item = Mapping[int, tuple[float, float]]
"""By bits: the value, to be minimised (what the objective loses), and the cost."""
Corner = tuple[int, float, float]
"""Bits, value and cost of an option."""
SOLVERS = ("linear", "slsqp")
MOST = 200_000
"""Steps of the search for a rounding; what it has found by then is taken."""


def solved(
    table: Mapping[str, Mapping[int, Entry]],
    budget: Budget,
    ties: Sequence[Sequence[str]],
    solver: str,
) -> dict[str, int]:
    """The bits of every layer: the programme's solution, rounded, and what is left used up.

    With several limits, or where no rounding is within the limit, those of an integer programme.

    Args:
        table: layer to bits to (value, to be minimised; cost per metric).
        budget: the limits.
        ties: layers of equal bits.
        solver: one of `SOLVERS`.

    Raises:
        InfeasibleBudget: no bits are within the limits.
    """
    if budget.others:
        return multiple_choice(table, budget.limits, ties=ties)
    groups = tied(list(table), ties)
    merged = [summed(table, group, budget.limits) for group in groups]
    items = [{b: (v, c[budget.metric]) for b, (v, c) in item.items()} for item in merged]
    between = linear(items, budget.limit)
    if solver == "slsqp":
        between = slsqp(items, budget.limit)
    bits = rounded(items, between, budget.limit)
    if bits is None:
        return multiple_choice(table, budget.limits, ties=ties)
    bits = refilled(items, bits, budget.limit)
    return {name: b for group, b in zip(groups, bits, strict=True) for name in group}


def linear(items: Sequence[Item], limit: float) -> list[float]:
    """The optimum of the programme: the bits of each item, at most one of them between two widths.

    From each item's cheapest bits on, the steps of its lower convex hull of value over cost are
    taken in the order of what they gain for their cost; the last one as far as the limit suffices.
    For costs that are no line over the bits, an item's bits are then a mixture of two widths.

    Raises:
        InfeasibleBudget: the cheapest bits cost more than the limit.
    """
    hulls = [_hull(item) for item in items]
    room = limit * (1 + TOLERANCE) - math.fsum(hull[0][2] for hull in hulls)
    if room < 0:
        raise InfeasibleBudget(f"no bits cost at most {limit:.6g}; the least is {limit - room:.6g}")
    steps = [
        (_slope(before, after), i, before, after)
        for i, hull in enumerate(hulls)
        for before, after in pairwise(hull)
    ]
    bits = [float(hull[0][0]) for hull in hulls]
    for _, i, before, after in sorted(steps):
        share = min(1.0, room / (after[2] - before[2]))
        bits[i] = before[0] + share * (after[0] - before[0])
        room -= share * (after[2] - before[2])
        if share < 1:
            break
    return bits


def _hull(item: Item) -> list[Corner]:
    """The options that no mixture of others beats, the cheapest first."""
    found: list[Corner] = []
    for cost, value, bits in sorted((cost, value, b) for b, (value, cost) in item.items()):
        if found and value >= found[-1][1]:
            continue
        corner = bits, value, cost
        while len(found) > 1 and _slope(found[-2], corner) <= _slope(*found[-2:]):
            found.pop()
        found.append(corner)
    return found


def _slope(before: Corner, after: Corner) -> float:
    return (after[1] - before[1]) / (after[2] - before[2])


def slsqp(items: Sequence[Item], limit: float) -> list[float]:
    """What the released code finds: SciPy's SLSQP, started at 8 bits everywhere.

    Where its tolerance takes the coefficients for zero, it stops after one step: at the bits within
    the limit that are nearest to the most bits, sum_i (x_i - high_i)^2, whatever the coefficients.
    """
    from scipy.optimize import minimize

    widths = [sorted(item) for item in items]
    costs = [[item[b][1] / limit for b in known] for item, known in zip(items, widths, strict=True)]
    most = [max(item.items()) for item in items]
    slopes = np.array([-8 * value / bits if bits else 0.0 for bits, (value, _) in most])

    def left(x: np.ndarray) -> float:
        spent = (np.interp(8 * at, w, c) for at, w, c in zip(x, widths, costs, strict=True))
        return 1.0 - float(sum(spent))

    found = minimize(
        lambda x: -float(x @ slopes),
        np.ones(len(items)),
        jac=lambda x: -slopes,
        method="SLSQP",
        bounds=[(known[0] / 8, known[-1] / 8) for known in widths],
        constraints={"type": "ineq", "fun": left},
    )
    return [float(8 * x) for x in found.x]


def rounded(items: Sequence[Item], bits: Sequence[float], limit: float) -> list[int] | None:
    """Each item's bits up or down to a width that it may have: the costliest within the limit.

    A depth-first search from the last item to the first, up before down; of equal costs the one
    found first. None if no rounding is within the limit.
    """
    choices = [_neighbours(item, at) for item, at in zip(items, bits, strict=True)][::-1]
    prices = [[item[b][1] for b in near] for item, near in zip(items[::-1], choices, strict=True)]
    least = [*accumulate((min(p) for p in prices[::-1]), initial=0.0)][::-1]
    most = [*accumulate((max(p) for p in prices[::-1]), initial=0.0)][::-1]
    bound, best, found = limit * (1 + TOLERANCE), -math.inf, None
    waiting: list[tuple[float, tuple[int, ...]]] = [(0.0, ())]
    for _ in range(MOST):
        if not waiting:
            break
        cost, chosen = waiting.pop()
        depth = len(chosen)
        if cost + least[depth] > bound or cost + most[depth] <= best:
            continue
        if depth == len(items):
            best, found = cost, chosen
            continue
        pairs = [*zip(prices[depth], choices[depth], strict=True)]
        waiting += [(cost + price, (*chosen, b)) for price, b in reversed(pairs)]
    return None if found is None else list(found[::-1])


def _neighbours(item: Item, at: float) -> list[int]:
    """The widths of an item next to some bits: the one above, then the one below."""
    above = min((b for b in item if b >= at), default=max(item))
    below = max((b for b in item if b <= at), default=min(item))
    return [above] if above == below else [above, below]


def refilled(items: Sequence[Item], bits: Sequence[int], limit: float) -> list[int]:
    """What rounding leaves of the limit goes to the items that gain most for their cost."""
    chosen = list(bits)
    while True:
        room = limit * (1 + TOLERANCE) - math.fsum(
            item[b][1] for item, b in zip(items, chosen, strict=True)
        )
        steps: list[tuple[float, float, int, int]] = []
        for i, item in enumerate(items):
            above = min((b for b in item if b > chosen[i]), default=None)
            if above is None:
                continue
            gain, price = (x - y for x, y in zip(item[chosen[i]], item[above], strict=True))
            if -price <= room:
                steps.append((gain / max(-price, 1e-300), price, -i, above))
        if not steps:
            return chosen
        _, _, i, above = max(steps)
        chosen[-i] = above
