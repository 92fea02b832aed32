"""How well sensitivities order what is lost in truth, by layer and by policy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.stats import spearmanr

from benchmarks.oracle.oracle_table import OracleTable
from frameworks import Problem, ScoringFramework

Losses = Mapping[str, Mapping[tuple[int, int], float]]


@dataclass(frozen=True)
class Ranks:
    """Rank correlations (Spearman) of an estimate with the loss of policies.

    Attributes:
        layers: over the policies that have all bits but those of one decision.
        policies: over all policies.
    """

    layers: float
    policies: float


def estimated(table: OracleTable, losses: Losses) -> np.ndarray:
    """What a sensitivity says that every policy loses: the sum over layers ``[policies]``."""
    names = list(table.pinned)
    weight = {name: np.full(len(table), table.pinned[name][0]) for name in names}
    act = {name: np.full(len(table), table.pinned[name][1]) for name in names}
    for column, choice in zip(table.bits.T, table.choices, strict=True):
        for name in choice.layers:
            if choice.kind != "act":
                weight[name] = column
            if choice.kind != "weight":
                act[name] = column
    total = np.zeros(len(table))
    for name in names:
        of = losses.get(name, {})
        pairs = set(zip(weight[name].tolist(), act[name].tolist(), strict=True))
        for pair in pairs:
            total[(weight[name] == pair[0]) & (act[name] == pair[1])] += of.get(pair, 0.0)
    return total


def alone(table: OracleTable) -> np.ndarray:
    """Which policies have the most bits but for one decision at most ``[policies]``."""
    most = np.array([choice.bits[-1] for choice in table.choices])
    found: np.ndarray = (table.bits != most).sum(1) <= 1
    return found


def ranks(table: OracleTable, losses: Losses, measure: str) -> Ranks:
    """How well a sensitivity orders a column of the table in which less is better."""
    said, true = estimated(table, losses), table.columns[measure]
    single = alone(table)
    return Ranks(_rank(said[single], true[single]), _rank(said, true))


def _rank(a: np.ndarray, b: np.ndarray) -> float:
    return float(spearmanr(a, b).statistic)


def losses_of(framework: ScoringFramework, problem: Problem) -> Losses | None:
    """What a framework says that layers lose; None for those that say nothing of the kind."""
    return framework.losses(problem, framework.score(problem))
