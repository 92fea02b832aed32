"""Budgets as records have them: one limit, or several that all are to be met."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.records.record import Record
from benchmarks.report.numbers.format import limit as limit_text

TOLERANCE = 1e-9


@dataclass(frozen=True)
class Bound:
    """A metric of the target and its limit."""

    metric: str
    limit: float
    unit: str = ""

    @property
    def text(self) -> str:
        """Such as ``size <= 29,250 bytes``."""
        return f"{self.metric} <= {limit_text(self.limit, self.unit)}"


def bounds_of(budget: Mapping[str, Any]) -> tuple[Bound, ...]:
    """The limits of a record's budget, the first one first; none of a cell that failed early.

    A budget of one metric has it in ``metric``, ``limit`` and ``unit``; one of several has all of
    them in ``bounds``, too.
    """
    entries = budget.get("bounds") or [budget]
    return tuple(
        Bound(str(entry["metric"]), float(entry["limit"]), str(entry.get("unit") or ""))
        for entry in entries
        if entry.get("metric") and entry.get("limit") is not None
    )


def within(record: Record) -> bool:
    """Whether a finished cell met its budget; what does not say so has not."""
    said = record.budget.get("within")
    if said is not None:
        return bool(said)
    bounds = bounds_of(record.budget)
    costs = [record.costs.get(bound.metric) for bound in bounds]
    return bool(bounds) and all(
        cost is not None and cost <= bound.limit * (1 + TOLERANCE)
        for cost, bound in zip(costs, bounds, strict=True)
    )


def nearest(record: Record, bounds: Sequence[Bound]) -> tuple[float, str] | None:
    """The largest share of a limit that a policy uses, and of which metric that is.

    A policy is over budget where the share is over 1. None: not every cost is known.
    """
    shares = []
    for bound in bounds:
        cost = record.costs.get(bound.metric)
        if cost is None or not bound.limit:
            return None
        shares.append((cost / bound.limit, bound.metric))
    return max(shares, key=lambda share: share[0], default=None)
