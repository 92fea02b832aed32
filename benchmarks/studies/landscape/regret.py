"""Regret: how far a search is from the best policy of its budget after so many evaluations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.oracle.oracle_table import OracleTable
from benchmarks.studies.landscape.shape import best_row
from frameworks import (
    Budget,
    Framework,
    Policy,
    Problem,
    Scores,
    ScoringFramework,
    seeded,
    steer,
)

STEERED = 6
"""Runs that a method steered by a penalty has, as in the suites."""


@dataclass(frozen=True)
class Truth:
    """The best that a budget allows.

    Attributes:
        budget: the limit.
        row: of the policy that is most accurate on the search-validation images.
        valid: its accuracy there in percent.
        test: its accuracy on the test images; None where there are none.
        loss: the least loss that a policy of the budget has on the search-validation images, in
            nats; None where there are none.
    """

    budget: Budget
    row: int
    valid: float
    test: float | None
    loss: float | None = None


def truth(table: OracleTable, problem: Problem, budget: Budget) -> Truth:
    """The best policy of a table within a budget."""
    within = np.array([budget.allows(problem.cost(table.policy(r))) for r in range(len(table))])
    row = best_row(table, within, "valid")
    test = table.columns.get("test.accuracy")
    valid = float(table.columns["valid.accuracy"][row])
    losses = table.columns.get("valid.loss")
    return Truth(
        budget,
        row,
        valid,
        None if test is None else float(test[row]),
        None if losses is None else float(losses[within].min()),
    )


def searched(
    framework: Framework,
    problem: Problem,
    table: OracleTable,
    best: Truth,
    seed: int,
    scores: Scores | None = None,
) -> dict[str, Any]:
    """A search over the table: its regrets in percentage points.

    Args:
        framework: the method.
        problem: the one that the table was made from.
        table: the whole space.
        best: the best of the budget to search within.
        seed: of the search.
        scores: of a scoring pass of the method; without any it searches as a whole.

    Returns:
        ``curve``: (evaluations, regret) whenever what the search would return changed; ``regret``
        of the policy that it returned, ``test``: by how much that is less accurate than the
        budget's best (by validation) on the test images, ``loss``: by how much its loss is more
        than the budget's least (nats), ``row``: its place in the table, ``evaluations``: how many
        it made, and ``over`` where it is not within the budget, which has no regret.
    """
    cell = problem.at(seed=seed, budget=best.budget, known=table.scores("valid"))
    with seeded(seed, "global"):
        if scores is not None and isinstance(framework, ScoringFramework):
            solution = framework.solve(cell, scores)
            cell.checkpoint(solution.policy)
        else:
            solution = steer(framework, cell, STEERED)
    spent = cell.meter.read().policies
    curve = [
        (point.spent.policies, best.valid - _accuracy(table, point.policy, "valid"))
        for point in cell.checkpoints
        if cell.within(point.policy)
    ]
    found: dict[str, Any] = {"curve": curve, "evaluations": spent}
    if not cell.within(solution.policy):
        return {**found, "regret": None, "test": None, "loss": None, "row": None, "over": True}
    row = table.row(solution.policy)
    missing = {
        "regret": best.valid - float(table.columns["valid.accuracy"][row]),
        "test": None
        if best.test is None
        else best.test - float(table.columns["test.accuracy"][row]),
        "loss": None if best.loss is None else float(table.columns["valid.loss"][row]) - best.loss,
    }
    return {**found, **missing, "row": row, "over": False}


def _accuracy(table: OracleTable, policy: Policy, split: str) -> float:
    return float(table.columns[f"{split}.accuracy"][table.row(policy)])


def at(curve: Sequence[tuple[int, float]], places: Sequence[int], start: float) -> list[float]:
    """A curve's regret after so many evaluations each; ``start`` before its first point."""
    found = []
    for place in places:
        reached = [regret for evaluations, regret in curve if evaluations <= place]
        found.append(reached[-1] if reached else start)
    return found
