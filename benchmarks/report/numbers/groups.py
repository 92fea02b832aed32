"""Groups of comparable cells, and a row of statistics for each framework in them."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.records.record import Record
from benchmarks.report.numbers.cells import (
    AXES,
    Cell,
    budget_label,
    dataset_labels,
    framework_labels,
    labels,
)
from benchmarks.report.numbers.format import limit as limit_text
from benchmarks.report.numbers.rows import Row, make_rows, mean
from benchmarks.report.numbers.statistics import estimate, paired_difference

PROTOCOLS = ("ptq", "controlled", "paper")
"""In the order of the table; never averaged together."""


@dataclass
class Group:
    """All cells that differ in framework and seed only.

    Attributes:
        model, dataset, hardware, protocol, budget: names for the table.
        protocol_name: ``ptq``, ``controlled`` or ``paper``.
        kind: of the hardware target: ``model``, ``table`` or ``measured``.
        rows: ranked by accuracy, then those over budget, then those without a result.
        asked: the metric that the budget names, if it names one.
    """

    model: str
    dataset: str
    hardware: str
    protocol: str
    budget: str
    protocol_name: str
    kind: str
    metric: str
    limit: float | None
    unit: str
    rows: list[Row]
    asked: str = ""

    @property
    def panel(self) -> tuple[str, str, str, str, str]:
        """What the budgets of one accuracy-cost picture share."""
        return self.protocol, self.model, self.dataset, self.hardware, self.metric

    @property
    def target(self) -> str:
        """The hardware target with its kind."""
        return f"{self.hardware} ({self.kind})" if self.kind else self.hardware

    @property
    def bound(self) -> str:
        """The limit as text, such as ``size <= 29,250 bytes``."""
        if self.limit is None:
            return ""
        return f"{self.metric} <= {limit_text(self.limit, self.unit)}"

    @property
    def title(self) -> str:
        """Model, dataset, hardware, protocol and budget."""
        bound = f": {self.bound}" if self.bound else ""
        parts = (self.model, self.dataset, self.target, self.protocol, self.budget + bound)
        return " | ".join(parts)

    @property
    def left_out(self) -> str:
        """What of the network's weights stays float, in a sentence; empty if nothing does."""
        notes = (str(r.weights.get("note", "")) for row in self.rows for r in row.records)
        return next((f"{self.model}: {note}." for note in notes if note), "")

    @property
    def float_accuracy(self) -> float | None:
        """Mean accuracy of the float network."""
        return mean(r.accuracy.get("float") for row in self.rows for r in row.records)

    @property
    def int8_cost(self) -> float | None:
        """Cost of the uniform 8-bit network in the budget's metric."""
        return mean(r.int8_costs.get(self.metric) for row in self.rows for r in row.records)

    @property
    def bases(self) -> list[str]:
        """What the finished cells were made with: one text, unless several are mixed."""
        return sorted({cell.basis for row in self.rows for cell in row.cells})

    @property
    def mixture(self) -> str:
        """A warning, if the rows were not all made with the same version and numerics."""
        if len(self.bases) < 2:
            return ""
        return (
            f"The rows were made with {len(self.bases)} different versions or numerics "
            f"({'; '.join(base or 'unknown' for base in self.bases)}); only those of the same one "
            "are paired."
        )

    @property
    def metrics(self) -> list[str]:
        """The metrics other than the budget's."""
        found = {metric for row in self.rows for r in row.records for metric in r.costs}
        return sorted(found - {self.metric})

    def cost(self, row: Row) -> float | None:
        """Mean cost of a row in the budget's metric."""
        return row.mean("costs", self.metric)

    def share(self, row: Row) -> float | None:
        """Mean cost as a share of the limit."""
        cost = self.cost(row)
        return cost / self.limit if cost is not None and self.limit else None


def _closest(row: Row, randoms: Sequence[Row]) -> Row:
    """The random search with the number of evaluations (or images) closest to a framework's."""

    def effort(of: Row) -> float:
        policies = row.mean("search", "policies") or 0
        return (of.mean("search", "policies") if policies > 1 else of.images) or 0

    if len(randoms) == 1:
        return randoms[0]
    return min(randoms, key=lambda other: (abs(effort(other) - effort(row)), -effort(other)))


def _compare(rows: list[Row]) -> None:
    """Fill in the statistics and the ranks, and sort the rows."""
    for row in rows:
        row.accuracy = estimate(row.accuracies().values())
    ranked = [row for row in rows if row.accuracy and not row.over]
    ranked.sort(key=lambda r: (-(r.accuracy.mean if r.accuracy else 0), r.label))
    uniforms = [row for row in ranked if row.name == "uniform"]
    randoms = [row for row in ranked if row.name == "random"]
    for rank, row in enumerate(ranked, 1):
        row.rank = rank
        rivals = {"uniform": uniforms[0]} if uniforms else {}
        if randoms:
            rivals["random"] = _closest(row, randoms)
            row.random = rivals["random"] if row.name != "random" else None
        for against, rival in rivals.items():
            if against == row.name:
                continue
            ours, theirs = row.accuracies(), rival.accuracies()
            row.versus[against] = [ours[k] - theirs[k] for k in sorted(ours.keys() & theirs.keys())]
            gain = paired_difference(ours, theirs)
            if gain:
                row.gains[against] = gain
    last = len(rows) + 1
    rows.sort(key=lambda r: (r.rank or last, not r.over, r.label))


def _kind(records: Iterable[Record]) -> str:
    for record in records:
        hardware = record.cell.get("hardware")
        said = hardware.get("kind") if isinstance(hardware, dict) else None
        if kind := record.budget.get("kind") or said:
            return str(kind)
    return ""


def gather(cells: Sequence[Cell]) -> list[Group]:
    """Sort cells into groups, in the order of the table."""
    names = {axis: labels({cell.axes[i] for cell in cells}) for i, axis in enumerate(AXES[:-1])}
    names["dataset"] = dataset_labels(cells)
    frameworks = framework_labels(cells)
    members: dict[tuple[str, ...], list[Cell]] = defaultdict(list)
    for cell in cells:
        members[cell.axes].append(cell)
    groups = [_group(axes, found, names, frameworks) for axes, found in members.items()]
    metrics = {(g.hardware, g.asked): g.metric for g in groups if g.metric}
    for group in groups:  # one in which every cell failed does not know the target's metric
        group.metric = group.metric or metrics.get((group.hardware, group.asked), "")
    groups.sort(key=_order)
    return groups


def _group(
    axes: tuple[str, ...],
    cells: list[Cell],
    names: dict[str, dict[str, str]],
    frameworks: dict[str, str],
) -> Group:
    rows = make_rows(cells, frameworks)
    _compare(rows)
    budgets = [cell.record.budget for cell in cells if cell.record.budget]
    budget = next((b for b in budgets if b.get("limit") is not None), {})
    asked = json.loads(axes[4])
    model, dataset, hardware, protocol = (names[axis][axes[i]] for i, axis in enumerate(AXES[:-1]))
    return Group(
        model=model,
        dataset=dataset,
        hardware=hardware,
        protocol=protocol,
        budget=str(budget.get("label") or budget_label(asked)),
        protocol_name=str(json.loads(axes[3]).get("name")),
        kind=_kind(cell.record for cell in cells),
        metric=str(budget.get("metric") or asked.get("metric") or ""),
        limit=budget.get("limit"),
        unit=str(budget.get("unit") or ""),
        rows=rows,
        asked=str(asked.get("metric") or ""),
    )


def _order(group: Group) -> tuple[Any, ...]:
    name = group.protocol_name
    place = PROTOCOLS.index(name) if name in PROTOCOLS else len(PROTOCOLS)
    limit = math.inf if group.limit is None else group.limit
    return (place, *group.panel, -limit, group.budget)
