"""Paths drawn uniformly among those of a bin of costs, which are counted and not sought.

SPOS calls it uniform constraint sampling: a bin of costs is drawn uniformly, and a path of it. The
release draws paths until one falls in (500 times, then it takes any), which hardly ever happens
under a tight budget. Here costs are cut into cells, and with k_io the cells that candidate o of
choice i costs above the cheapest one,

    N_i(c) = sum_o N_{i+1}(c - k_io),   N_n(0) = 1,

is how many ways there are for choices i, .., n - 1 to cost c cells together. A path is drawn choice
by choice, o with a chance in proportion to N_{i+1}(c - k_io): uniformly among all that come to c.
Cells are rounded, so that they reach beyond a bin by what rounding can add up to, and of these
paths those that are not in the bin by their true cost are drawn again. What is left is uniform.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from frameworks.core.evolution.genetic import Genes

CELLS = 4000
"""Cells from the cheapest path to the upper end of the bins."""
TRIES = 500
"""So many paths are drawn about a bin; one in which none of them lies is taken to be empty."""
Floats = NDArray[np.float64]
Edges = tuple[float, float]


class Sampler:
    """Draws paths by their costs.

    Args:
        costs: what each candidate of each choice costs; a path costs their sum.
        low, high: where the bins begin and end; they are moved between the cheapest path and the
            dearest. If no path costs as much as ``low``, all paths are drawn alike.
        bins: how many of equal width there are.

    Attributes:
        bins: lower and upper ends of those that are left; empty ones go when they are met.
    """

    def __init__(self, costs: Sequence[Floats], low: float, high: float, bins: int) -> None:
        self.costs = list(costs)
        least = sum(float(c.min()) for c in costs)
        most = sum(float(c.max()) for c in costs)
        edges = np.linspace(max(low, least), min(high, most), bins + 1)
        self.bins: list[Edges] = list(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True))
        if most < low or least > high:
            self.bins = []
        self.least, self.cell = least, (float(edges[-1]) - least) / CELLS
        if self.cell <= 1e-15 * abs(most):  # all cost the same, or there are no bins
            self.cell = abs(most) or 1.0
        above = [(c - c.min()) / self.cell for c in costs]
        self.steps = [np.rint(a).astype(np.int64) for a in above]
        apart = zip(above, self.steps, strict=True)
        self.slack = 1 + sum(float(np.abs(a - s).max()) for a, s in apart)
        self.ways = self._counted(CELLS + int(self.slack) + 2)

    def _counted(self, size: int) -> list[Floats]:
        """N_i ``[size]`` of each choice and the end, each up to a factor of its own."""
        ways = [np.eye(1, size)[0]]
        for steps in reversed(self.steps):
            total = np.zeros(size)
            for step in steps[steps < size]:
                total[step:] += ways[-1][: size - step]
            ways.append(total / total.max())
        return ways[::-1]

    def draw(self, rng: np.random.Generator) -> Genes:
        """A path of a bin that is drawn uniformly; of all paths where there is no bin."""
        while self.bins:
            i = int(rng.integers(len(self.bins)))
            if (found := self.within(rng, *self.bins[i])) is not None:
                return found
            del self.bins[i]
        return tuple(rng.integers(0, [len(c) for c in self.costs]).tolist())

    def within(self, rng: np.random.Generator, low: float, high: float) -> Genes | None:
        """A path that costs from ``low`` to ``high``, all of these alike; None if there is none."""
        first = max(0, int((low - self.least) / self.cell - self.slack))
        last = int((high - self.least) / self.cell + self.slack) + 1
        totals = np.cumsum(self.ways[0][first : last + 1])
        rounding = 1e-9 * abs(high)
        for _ in range(TRIES if totals[-1] > 0 else 0):
            genes = self._path(rng, first + _picked(totals, rng))
            price = sum(float(c[g]) for c, g in zip(self.costs, genes, strict=True))
            if low - rounding <= price <= high + rounding:
                return genes
        return None

    def _path(self, rng: np.random.Generator, left: int) -> Genes:
        """A path of so many cells, all of these alike."""
        found = []
        for steps, ways in zip(self.steps, self.ways[1:], strict=True):
            after = left - steps
            chances = np.where(after >= 0, ways[np.maximum(after, 0)], 0.0)
            found.append(_picked(np.cumsum(chances), rng))
            left = int(after[found[-1]])
        return tuple(found)


def _picked(totals: Floats, rng: np.random.Generator) -> int:
    """A position drawn in proportion to weights, given their running totals."""
    return int(np.searchsorted(totals, rng.random() * totals[-1], side="right"))
