"""Who is told apart from whom: the one place that decides it, for every table and picture.

Frameworks of a group are compared by pairs of equal seeds, with a t test, which is also what the
intervals are made of: a difference is told apart exactly where its interval excludes zero. As seeds
are few, each variance is moderated by those of the family (`benchmarks.report.numbers.moderation`).
All comparisons with one rival are a family, and Holm's correction keeps the chance of any false
difference in it near 5 %: ordered by p, the i-th of m is tested at 5 % / (m - i + 1), up to the
first that is not told apart. Each interval is that of the level at which its step tests.

With fewer than `FEWEST` seeds in common nothing is tested: there is a mean, and no interval.

Sources: Holm, Scandinavian Journal of Statistics 6 (1979); Welch, Biometrika 34 (1947), where
there are no pairs; a best one and all that are not told apart from it, Hsu, Annals of Statistics
12 (1984).
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from benchmarks.report.numbers.moderation import prior
from benchmarks.report.numbers.statistics import LEVEL, Estimate

FEWEST = 3
"""With fewer seeds nothing is told apart (the protocol asks for three)."""

Key = TypeVar("Key", bound=Hashable)
Values = Mapping[Key, float]
"""A framework's numbers, by what pairs them with another's."""


@dataclass(frozen=True)
class Difference(Estimate):
    """A mean difference over ``n`` pairs, and the interval that decides.

    Attributes:
        p: of the t test by itself, before any correction; None where nothing was tested.
        level: coverage of the interval after Holm's correction, None where there is none.
        paired: whether it is of pairs; else of two independent samples (then ``n`` is the size
            of the smaller).
    """

    p: float | None = None
    level: float | None = None
    paired: bool = True

    @property
    def significant(self) -> bool:
        """Whether the two are told apart: the interval excludes zero."""
        return self.low is not None and self.high is not None and not self.low <= 0 <= self.high


@dataclass(frozen=True)
class _Sample:
    """A mean difference, its standard error and the degrees of freedom of that."""

    mean: float
    error: float
    freedom: float
    n: int
    paired: bool

    @property
    def tested(self) -> bool:
        return self.n >= FEWEST

    @property
    def p(self) -> float:
        """Two-sided p value of the t test."""
        if self.error == 0:
            return 0.0 if self.mean else 1.0
        from scipy.special import stdtr  # half the start-up time of the table

        return float(2 * stdtr(self.freedom, -abs(self.mean) / self.error))

    def half_width(self, alpha: float) -> float:
        """Of the interval that covers 1 - ``alpha``."""
        if self.error == 0:
            return 0.0
        from scipy.special import stdtrit

        return float(-stdtrit(self.freedom, alpha / 2)) * self.error


def _mean_and_variance(values: Sequence[float]) -> tuple[float, float]:
    """The mean, and the variance of that mean."""
    n = len(values)
    mean = math.fsum(values) / n
    squares = math.fsum((value - mean) ** 2 for value in values)
    return mean, squares / (n - 1) / n if n > 1 else 0.0


def _sample(ours: Values[Key], theirs: Values[Key], unpaired: bool) -> _Sample | None:
    """Ours minus theirs by pairs, or, where there are too few and it is allowed, without."""
    # Beyond nine places there is nothing but rounding, which equal differences must not vary by.
    pairs = sorted(round(ours[key] - theirs[key], 9) for key in ours.keys() & theirs.keys())
    if unpaired and len(pairs) < FEWEST <= min(len(ours), len(theirs)):
        return _welch(sorted(ours.values()), sorted(theirs.values()))
    if not pairs:
        return None
    mean, variance = _mean_and_variance(pairs)
    return _Sample(mean, math.sqrt(variance), len(pairs) - 1, len(pairs), True)


def _welch(ours: Sequence[float], theirs: Sequence[float]) -> _Sample:
    """The difference of two independent samples, with Welch's degrees of freedom."""
    (a, va), (b, vb) = _mean_and_variance(ours), _mean_and_variance(theirs)
    spread = va * va / (len(ours) - 1) + vb * vb / (len(theirs) - 1)
    n = min(len(ours), len(theirs))
    freedom = (va + vb) ** 2 / spread if spread else n - 1.0
    return _Sample(a - b, math.sqrt(va + vb), freedom, n, False)


def _moderated(samples: Mapping[str, _Sample]) -> dict[str, _Sample]:
    """Samples of pairs with their variances helped by each other's, where they are enough."""
    pairs = {name: s for name, s in samples.items() if s.paired and s.tested}
    variances = [s.error**2 * s.n for s in pairs.values()]
    freedoms = [s.freedom for s in pairs.values()]
    known = prior(variances, freedoms)
    found = dict(samples)
    if known is not None:
        for (name, s), variance in zip(pairs.items(), variances, strict=True):
            mixed, freedom = known.moderated(variance, s.freedom)
            found[name] = replace(s, error=math.sqrt(mixed / s.n), freedom=freedom)
    return found


def compared(
    sides: Mapping[str, tuple[Values[Key], Values[Key]]],
    unpaired: bool = False,
    *,
    moderate: bool = True,
) -> dict[str, Difference]:
    """Each framework minus its rival, as one family of comparisons.

    Args:
        sides: by framework its values and its rival's, both by what pairs them (seeds, say).
        unpaired: compare as independent samples where there are too few pairs.
        moderate: let the family's variances help each other.

    Returns:
        By framework; one that shares nothing with its rival is left out.
    """
    samples = {
        name: sample
        for name, (ours, theirs) in sides.items()
        if (sample := _sample(ours, theirs, unpaired)) is not None
    }
    samples = _moderated(samples) if moderate else samples
    found = {
        name: Difference(s.mean, None, None, s.n, paired=s.paired)
        for name, s in samples.items()
        if not s.tested
    }
    p = {name: sample.p for name, sample in samples.items() if sample.tested}
    told, alpha = True, 1 - LEVEL
    for place, name in enumerate(sorted(p, key=lambda name: (p[name], name))):
        sample = samples[name]
        if told:
            alpha = (1 - LEVEL) / (len(p) - place)
        half = sample.half_width(alpha)
        told = told and half < abs(sample.mean)
        if not told:  # what rounding may make of two equal p
            half = max(half, abs(sample.mean))
        ends = sample.mean - half, sample.mean + half
        found[name] = Difference(sample.mean, *ends, sample.n, p[name], 1 - alpha, sample.paired)
    return found


@dataclass(frozen=True)
class Verdict:
    """Who is best in a group.

    Attributes:
        best: the framework of the highest mean among those judged; None: nothing can be told.
        marked: it, and all that are not told apart from it.
        behind: each other one that was judged minus the best.
        unjudged: those with too few seeds to be judged, though others have enough.
    """

    best: str | None
    marked: frozenset[str]
    behind: Mapping[str, Difference]
    unjudged: tuple[str, ...] = ()


NOBODY = Verdict(None, frozenset(), {})


def judge(values: Mapping[str, Values[Key]]) -> Verdict:
    """Who is best, and who is not told apart from it.

    Args:
        values: by framework its accuracies by what pairs them. Those with fewer than `FEWEST` are
            neither best nor compared; where fewer than two are left, nothing can be told.
    """
    judged = {name: of for name, of in values.items() if len(of) >= FEWEST}
    if len(judged) < 2:
        return NOBODY
    means = {name: math.fsum(of.values()) / len(of) for name, of in judged.items()}
    best = min(judged, key=lambda name: (-means[name], name))
    others = {name: (of, judged[best]) for name, of in judged.items() if name != best}
    behind = compared(others, unpaired=True)
    marked = {best, *(name for name, found in behind.items() if not found.significant)}
    return Verdict(best, frozenset(marked), behind, tuple(sorted(values.keys() - judged.keys())))
