"""Records of one comparison as a pandas table, with the numbers of the juxtaposition table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from benchmarks.records.record import Record
from benchmarks.report.numbers.cells import Cell
from benchmarks.report.numbers.groups import Group, gather
from benchmarks.report.numbers.rows import Row
from frameworks import Policy

INDEX = "method"
NUMBERS = (
    *("accuracy", "low", "high", "gain", "cost", "of_budget", "weight_bits", "act_bits"),
    *("policies", "images", "seconds"),
)


def frame(records: Sequence[Record]) -> pd.DataFrame:
    """A row a framework, in the order of the juxtaposition table: ranked, over budget, the rest.

    Args:
        records: of cells that differ in framework and seed only.

    Returns:
        see `benchmarks.juxtapose`.
    """
    (group,) = gather([Cell.of(record) for record in records])
    rows = [_row(group, row) for row in group.rows]
    table = pd.DataFrame(rows).set_index(INDEX)
    table[list(NUMBERS)] = table[list(NUMBERS)].astype(float)  # None becomes NaN
    table.attrs["title"] = group.title
    return table


def _row(group: Group, row: Row) -> dict[str, Any]:
    accuracy, gain = row.accuracy, row.gains.get("uniform")
    best = max(row.records, key=lambda r: r.accuracy["valid"] or 0, default=None)
    return {
        INDEX: row.label,
        "accuracy": accuracy and accuracy.mean,
        "low": accuracy and accuracy.low,
        "high": accuracy and accuracy.high,
        "gain": gain and gain.mean,
        "cost": row.mean("costs", group.metric),
        "of_budget": _share(row),
        "weight_bits": row.mean("bits", "weight"),
        "act_bits": row.mean("bits", "act"),
        "policies": row.mean("search", "policies"),
        "images": row.images,
        "seconds": row.mean("search", "seconds"),
        "baseline": row.baseline,
        "status": row.status or "done",
        "reason": "; ".join(row.faults),
        "policy": best and Policy.from_json(best.policy or {}),
    }


def _share(row: Row) -> float | None:
    """Mean share of the budget, by the metric that is nearest to its limit."""
    shares = []
    for record in row.records:
        bounds = record.budget.get("bounds") or [record.budget]
        shares.append(max(record.costs[b["metric"]] / b["limit"] for b in bounds))
    return sum(shares) / len(shares) if shares else None
