"""Whether a search learned: did its own objective improve while it ran?

A search that learns (an agent, a super net, gates) puts a `Learning` into its notes; the table
marks those that did not, as their policies owe nothing to what the method is about.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

LEVEL = 0.05
"""A trend that chance alone shows less often than this counts as learned."""
POINTS = 60
"""At most this many points of a curve are kept in a record."""


@dataclass(frozen=True)
class Learning:
    """A search's own objective over time.

    Attributes:
        objective: what it is, such as ``reward`` or ``cross-entropy + penalty``.
        values: one a step, episode or generation, in order. They must be comparable with each
            other: a penalty that grows on a schedule is no objective.
        higher: whether more is better.
    """

    objective: str
    values: Sequence[float]
    higher: bool = True

    @property
    def p_value(self) -> float:
        """One-sided Mann-Kendall test for a trend to the better; 1 where nothing changes.

        Kendall's tau of the values with their time (Mann, "Nonparametric tests against trend",
        1945): it asks for no distribution and is not moved by a few extreme values.
        """
        if len(self.values) < 2 or not all(map(math.isfinite, self.values)):
            return 1.0
        from scipy import stats  # it loads an optimizer, which listing frameworks does not need

        better = "greater" if self.higher else "less"
        found = stats.kendalltau(range(len(self.values)), self.values, alternative=better)
        return 1.0 if math.isnan(found.pvalue) else float(found.pvalue)

    @property
    def improved(self) -> bool:
        """Whether the trend to the better is more than chance."""
        return self.p_value < LEVEL

    def to_json(self) -> dict[str, Any]:
        """Plain data for ``Solution.notes["learning"]``: the ends, the test and a short curve."""
        values = [float(value) for value in self.values]
        fifth = max(1, len(values) // 5)
        return {
            "objective": self.objective,
            "higher": self.higher,
            "start": _mean(values[:fifth]),
            "end": _mean(values[-fifth:]),
            "p": self.p_value,
            "improved": self.improved,
            "curve": thinned(values),
        }


def thinned(values: Sequence[float], points: int = POINTS) -> list[float]:
    """At most so many means of equal stretches of the values, in order."""
    count = min(points, len(values))
    ends = [round(i * len(values) / count) for i in range(count + 1)] if count else []
    return [_mean(values[a:b]) for a, b in itertools.pairwise(ends)]


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan
