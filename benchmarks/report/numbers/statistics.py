"""Statistics of the table: means with intervals, paired gains, profiles and hypervolumes.

Everything here is deterministic: the same numbers in any order give the same result.

Sources: the bootstrap is Efron and Tibshirani (1993), chapters 13 and 8.5 (paired data);
performance profiles are Dolan and More (2002), integrated as in AlgoPerf (Dahl et al., arXiv
2306.07179, section 4.3); the hypervolume is Zitzler and Thiele (1999).
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations_with_replacement
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.95
"""Coverage of every interval, and 1 minus the level of the test."""
EXACT_SAMPLES = 8
"""Up to this many values the bootstrap distribution is enumerated, not drawn."""
DRAWS = 10_000
FEWEST_PAIRS = 3
"""With fewer pairs no difference is called significant (the protocol asks for three seeds)."""
PROFILE_LIMIT = 2.0
"""Profiles are integrated from 1 to this ratio of a framework's error to the best error."""

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Estimate:
    """A mean over ``n`` values and its 95 % interval; one value alone has no interval."""

    mean: float
    low: float | None
    high: float | None
    n: int


@dataclass(frozen=True)
class Difference(Estimate):
    """A mean of paired differences.

    ``p`` is that of the paired t test. A percentile interval of three values is their range, which
    misses the true mean one time in four; so ``significant`` asks for both: the interval excludes
    zero, and the t test rejects at 5 %. It is not corrected for the number of comparisons.
    """

    p: float | None
    significant: bool


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


def t_test(differences: Sequence[float]) -> float | None:
    """Two-sided p value of Student's t test against a mean of zero; None below two values."""
    n = len(differences)
    if n < 2:
        return None
    mean = math.fsum(differences) / n
    variance = math.fsum((d - mean) ** 2 for d in differences) / (n - 1)
    if variance == 0:
        return 0.0 if mean else 1.0
    from scipy.special import stdtr  # half the start-up time of the table, so only when needed

    return float(2 * stdtr(n - 1, -abs(mean) / math.sqrt(variance / n)))


def paired_difference(ours: Mapping[Key, float], theirs: Mapping[Key, float]) -> Difference | None:
    """Ours minus theirs over the keys (seeds) that both have; None if they share none."""
    differences = sorted(ours[key] - theirs[key] for key in ours.keys() & theirs.keys())
    found = estimate(differences)
    if found is None:
        return None
    p = t_test(differences)
    significant = (
        found.n >= FEWEST_PAIRS
        and p is not None
        and p < 1 - LEVEL
        and found.low is not None
        and found.high is not None
        and not found.low <= 0 <= found.high
    )
    return Difference(found.mean, found.low, found.high, found.n, p, significant)


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


def hypervolume(points: Iterable[tuple[float, float]], reference: tuple[float, float]) -> float:
    """Exact area dominated by points (cost, value), up to a reference (largest cost, least value).

    Points that do not improve on the reference in both count for nothing.
    """
    most, least = reference
    front = pareto_front(p for p in points if p[0] < most and p[1] > least)
    ends = [cost for cost, _ in front[1:]] + [most] * bool(front)
    return math.fsum(
        (end - cost) * (value - least) for (cost, value), end in zip(front, ends, strict=True)
    )
