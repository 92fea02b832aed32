"""Budgets of cells."""

from __future__ import annotations

from typing import Any

from frameworks import BudgetSpec


def budget_spec(cell: dict[str, Any]) -> BudgetSpec:
    """The budget asked for; ``like=4`` if none is.

    Raises:
        ValueError: an unknown entry, or not exactly one of like, ratio and limit.
    """
    entries = {k: v for k, v in cell["budget"].items() if v is not None}
    if not entries.keys() & {"like", "ratio", "limit", "metrics"}:
        entries["like"] = 4.0
    try:
        return BudgetSpec(**entries)
    except TypeError as error:
        raise ValueError(
            f"budget: {error}; the entries are like, ratio, limit, metric, metrics"
        ) from error


def label_of(cell: dict[str, Any]) -> str:
    """Short text of a cell's budget, such as ``like=4``."""
    return budget_spec(cell).label
