"""The shape of a landscape: its front, and how nearly losses add up over layers."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy.stats import spearmanr

from benchmarks.oracle.oracle_table import OracleTable
from benchmarks.report.numbers.statistics import pareto_front


def front(table: OracleTable, cost: str, value: str) -> list[tuple[float, float]]:
    """The true Pareto front: (cost, value) of which no policy has less and more."""
    return pareto_front(
        zip(table.columns[cost].tolist(), table.columns[value].tolist(), strict=True)
    )


def best_row(table: OracleTable, within: np.ndarray, split: str) -> int:
    """The row of the most accurate policy of some; of equal ones that of least loss.

    Args:
        within: which rows may be taken, ``[policies]``.
    """
    rows = np.flatnonzero(within)
    if not len(rows):
        raise ValueError("no policy of the table is within the budget")
    accuracy = table.columns[f"{split}.accuracy"][rows]
    loss = table.columns.get(f"{split}.loss", 100 - table.columns[f"{split}.accuracy"])[rows]
    return int(rows[np.lexsort((loss, -accuracy))[0]])


@dataclass(frozen=True)
class Additivity:
    """How nearly a measure of policies is a sum over decisions.

    Attributes:
        main: share of the variance that the best sum of one term a decision explains.
        pairs: the same with a term for each pair of decisions, too.
        alone: rank correlation of the measure with the sum of what each decision changes alone,
            starting from the most bits of all.
    """

    main: float
    pairs: float
    alone: float


def additivity(table: OracleTable, measure: str) -> Additivity:
    """How nearly a column of a table adds up over decisions.

    The full factorial has every combination once, so that the least-squares fit is by means (the
    analysis of variance), and shares are exact.
    """
    counts = [len(choice.bits) for choice in table.choices]
    grid = table.columns[measure].astype(np.float64).reshape(counts)
    total = grid.var()
    if not total:
        return Additivity(1.0, 1.0, 1.0)
    axes = tuple(range(grid.ndim))
    means = [grid.mean(tuple(a for a in axes if a != i)) - grid.mean() for i in axes]
    main = sum(float((m**2).mean()) for m in means)
    both = 0.0
    for i, j in combinations(axes, 2):
        pair = grid.mean(tuple(a for a in axes if a not in (i, j))) - grid.mean()
        both += float(((pair - means[i][:, None] - means[j][None, :]) ** 2).mean())
    return Additivity(main / total, (main + both) / total, _alone(grid))


def _alone(grid: np.ndarray) -> float:
    """The rank correlation of a grid with sums of its changes from its last corner."""
    corner = tuple(n - 1 for n in grid.shape)
    summed = np.zeros(grid.shape)
    for axis, count in enumerate(grid.shape):
        line = grid[tuple(slice(None) if a == axis else corner[a] for a in range(grid.ndim))]
        shape = [1] * grid.ndim
        shape[axis] = count
        summed = summed + (line - grid[corner]).reshape(shape)
    return float(spearmanr(summed.ravel(), grid.ravel()).statistic)
