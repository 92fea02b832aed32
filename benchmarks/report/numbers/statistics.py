"""Statistics of the table: means with intervals, performance profiles and Pareto fronts.

Everything here is deterministic: the same numbers in any order give the same result.

Sources: the bootstrap is Efron and Tibshirani (1993), chapter 13; performance profiles are Dolan
and More (2002), integrated as in AlgoPerf (Dahl et al., arXiv 2306.07179, section 4.3).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations_with_replacement

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.95
"""Coverage of every interval, and 1 minus the level of every test."""
EXACT_SAMPLES = 8
"""Up to this many values the bootstrap distribution is enumerated, not drawn."""
DRAWS = 10_000
PROFILE_LIMIT = 2.0
"""Profiles are integrated from 1 to this ratio of a framework's error to the best error."""


@dataclass(frozen=True)
class Estimate:
    """A mean over ``n`` values and its 95 % interval; one value alone has no interval."""

    mean: float
    low: float | None
    high: float | None
    n: int


@lru_cache(maxsize=64)
def _resamples(n: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """How often each of n values is drawn in each resample, (M, n), and its probability, (M,)."""
    if n > EXACT_SAMPLES:
        drawn = np.random.default_rng(n).multinomial(n, [1 / n] * n, size=DRAWS)
        return drawn.astype(np.float64), np.full(DRAWS, 1 / DRAWS)
    rows = [np.bincount(c, minlength=n) for c in combinations_with_replacement(range(n), n)]
    ways = [math.factorial(n) / math.prod(math.factorial(k) for k in row) for row in rows]
    return np.array(rows, dtype=np.float64), np.array(ways) / float(n) ** n


def _quantile(values: NDArray[np.float64], weights: NDArray[np.float64], share: float) -> float:
    """The smallest value at or below which at least ``share`` of the weight lies."""
    if len(values) == DRAWS:  # all weigh the same, so there is no need to sort them
        place = math.ceil((share - 1e-12) * DRAWS) - 1
        return float(np.partition(values, place)[place])
    order = np.argsort(values, kind="stable")
    reached = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(reached, share - 1e-12)])


def bootstrap(values: Sequence[float], level: float = LEVEL) -> tuple[float, float] | None:
    """Percentile bootstrap interval of the mean; None for fewer than two values.

    For up to `EXACT_SAMPLES` values it is exact: all resamples count, each with its probability.
    For more, `DRAWS` resamples with a fixed seed are used.
    """
    n = len(values)
    if n < 2:
        return None
    tail = (1 - level) / 2
    if n**-n >= tail:  # the resample of nothing but the smallest value is not rare enough
        return float(min(values)), float(max(values))
    counts, weights = _resamples(n)
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    means = np.clip(counts @ ordered / n, ordered[0], ordered[-1])
    return _quantile(means, weights, tail), -_quantile(-means, weights, tail)


def estimate(values: Iterable[float]) -> Estimate | None:
    """Mean and 95 % interval; None for no values."""
    kept = sorted(values)
    if not kept:
        return None
    low, high = bootstrap(kept) or (None, None)
    return Estimate(math.fsum(kept) / len(kept), low, high, len(kept))


def performance_ratios(problems: Sequence[Mapping[str, float]]) -> dict[str, list[float]]:
    """Dolan and More's ratios: each solver's measure over the best one's, problem by problem.

    Args:
        problems: for each problem the measure by solver, lower is better and not negative;
            infinite where the solver failed. A solver that a problem does not name did not try it.
    """
    ratios: dict[str, list[float]] = {}
    for measures in problems:
        best = min(measures.values(), default=math.inf)
        for solver, measure in measures.items():
            if math.isinf(measure):
                ratio = math.inf
            elif best == 0:
                ratio = 1.0 if measure == 0 else math.inf
            else:
                ratio = measure / best
            ratios.setdefault(solver, []).append(ratio)
    return ratios


def profile(ratios: Sequence[float], tau: float) -> float:
    """Share of the problems solved within ``tau`` times the best measure."""
    return sum(ratio <= tau for ratio in ratios) / len(ratios)


def profile_area(ratios: Sequence[float], limit: float = PROFILE_LIMIT) -> float:
    """Mean height of the profile between 1 and ``limit``, exactly: 1 is the best everywhere."""
    return math.fsum(max(0.0, limit - ratio) for ratio in ratios) / (limit - 1) / len(ratios)


def pareto_front(points: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points (cost, value) that no other beats in both: lower cost, higher value; by cost."""
    front: list[tuple[float, float]] = []
    for cost, value in sorted(set(points), key=lambda p: (p[0], -p[1])):
        if not front or value > front[-1][1]:
            front.append((cost, value))
    return front
