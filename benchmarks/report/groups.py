"""Groups of comparable cells, and a row of statistics for each framework in them."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.record import Record
from benchmarks.report.cells import AXES, Cell, budget_label, framework_labels, labels
from benchmarks.report.format import last_line
from benchmarks.report.format import limit as limit_text
from benchmarks.statistics import Difference, Estimate, estimate, paired_difference

PROTOCOLS = ("ptq", "controlled", "paper")
"""In the order of the table; never averaged together."""
BASELINES = ("uniform", "random", "greedy", "exhaustive")
TOLERANCE = 1e-9


def within(record: Record) -> bool:
    """Whether a finished cell met its budget; what does not say so has not."""
    said = record.budget.get("within")
    if said is not None:
        return bool(said)
    cost, limit = record.costs.get(record.budget.get("metric", "")), record.budget.get("limit")
    return cost is not None and limit is not None and cost <= limit * (1 + TOLERANCE)


def mean(values: Iterable[float | None]) -> float | None:
    """The mean of what was measured; None if nothing was."""
    kept = [v for v in values if v is not None and math.isfinite(v)]
    return math.fsum(kept) / len(kept) if kept else None


@dataclass
class Row:
    """One framework in one group. Cells over budget have a row of their own, without a rank.

    Attributes:
        name: the framework.
        label: its name, with its settings where the group holds several configurations of it.
        cells: the finished cells that the numbers are taken over.
        over: the row is that of the cells over budget.
        failed, skipped: cells without a result (listed in the row within budget, if there is one).
        over_count: cells of the same framework that are over budget.
        accuracy: final accuracy over the seeds.
        versus: ``uniform`` and ``random``: the differences by pair of equal seeds.
        gains: the same, as mean and interval.
    """

    name: str
    label: str
    cells: list[Cell]
    over: bool = False
    failed: list[Record] = field(default_factory=list)
    skipped: list[Record] = field(default_factory=list)
    over_count: int = 0
    rank: int | None = None
    accuracy: Estimate | None = None
    versus: dict[str, list[float]] = field(default_factory=dict)
    gains: dict[str, Difference] = field(default_factory=dict)

    @property
    def records(self) -> list[Record]:
        """The records of the finished cells."""
        return [cell.record for cell in self.cells]

    @property
    def card(self) -> dict[str, Any]:
        """The framework's card, from the first record that has one."""
        known = [*self.records, *self.failed, *self.skipped]
        return next((record.card for record in known if record.card), {})

    @property
    def baseline(self) -> bool:
        """Whether it is a baseline and no surveyed framework."""
        return self.card.get("category") == "baseline" or (
            not self.card and self.name in BASELINES
        )

    def mean(self, part: str, key: str) -> float | None:
        """Mean over the seeds of an entry such as ``("search", "policies")``."""
        return mean(getattr(record, part).get(key) for record in self.records)

    @property
    def images(self) -> float | None:
        """Mean images processed by the search, forward plus backward."""
        passes = [self.mean("search", f"images_{way}") for way in ("forward", "backward")]
        known = [count for count in passes if count is not None]
        return math.fsum(known) if known else None

    @property
    def status(self) -> str:
        """What is not as it should be, in a few words."""
        notes = ["OVER BUDGET"] if self.over else []
        if self.over_count and not self.over:
            notes.append(f"{self.over_count} over budget")
        for count, word in ((len(self.failed), "failed"), (len(self.skipped), "skipped")):
            if count:
                notes.append(f"{count} {word}" if self.cells or count > 1 else word)
        return ", ".join(notes)

    @property
    def faults(self) -> list[str]:
        """One line for each cell without a result."""
        lines = [
            f"{self.label}, seed {r.cell.get('seed', 0)}: failed: {last_line(r.error)}"
            for r in self.failed
        ]
        reasons = dict.fromkeys(r.reason or "no reason given" for r in self.skipped)
        return lines + [f"{self.label}: skipped: {reason}" for reason in reasons]

    def accuracies(self) -> dict[tuple[int, str, str], float]:
        """Final accuracy by what pairs cells."""
        return {cell.pair: float(cell.record.accuracy["final"] or 0) for cell in self.cells}


@dataclass
class Group:
    """All cells that differ in framework and seed only.

    Attributes:
        model, dataset, hardware, protocol, budget: names for the table.
        protocol_name: ``ptq``, ``controlled`` or ``paper``.
        kind: of the hardware target: ``model``, ``table`` or ``measured``.
        rows: ranked by accuracy, then those over budget, then those without a result.
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
    def float_accuracy(self) -> float | None:
        """Mean accuracy of the float network."""
        return mean(r.accuracy.get("float") for row in self.rows for r in row.records)

    @property
    def int8_cost(self) -> float | None:
        """Cost of the uniform 8-bit network in the budget's metric."""
        return mean(r.int8_costs.get(self.metric) for row in self.rows for r in row.records)

    @property
    def checkpoints(self) -> int:
        """How many float checkpoints the finished cells start from."""
        return len({cell.pair[1:] for row in self.rows for cell in row.cells})

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


def _rows(cells: Sequence[Cell], names: dict[str, str]) -> list[Row]:
    by_framework: dict[str, list[Cell]] = defaultdict(list)
    for cell in cells:
        by_framework[cell.framework].append(cell)
    rows: list[Row] = []
    for text, members in by_framework.items():
        name, label = str(json.loads(text).get("name", "?")), names[text]
        done = [c for c in members if c.record.status == "done"]
        good = [c for c in done if within(c.record)]
        bad = [c for c in done if not within(c.record)]
        failed = [c.record for c in members if c.record.status == "failed"]
        skipped = [c.record for c in members if c.record.status == "skipped"]
        if good or not bad:
            rows.append(Row(name, label, good, False, failed, skipped, len(bad)))
            failed, skipped = [], []
        if bad:
            rows.append(Row(name, label, bad, True, failed, skipped, len(bad)))
    return rows


def _closest(row: Row, randoms: Sequence[Row]) -> Row:
    """The random search with the number of evaluations (or images) closest to a framework's."""

    def effort(of: Row) -> float:
        policies = row.mean("search", "policies") or 0
        return (of.mean("search", "policies") if policies > 1 else of.images) or 0

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
    names = {
        axis: labels({cell.axes[i] for cell in cells}) for i, axis in enumerate(AXES[:-1])
    }
    frameworks = framework_labels(cells)
    members: dict[tuple[str, ...], list[Cell]] = defaultdict(list)
    for cell in cells:
        members[cell.axes].append(cell)
    groups = [_group(axes, found, names, frameworks) for axes, found in members.items()]
    groups.sort(key=_order)
    return groups


def _group(
    axes: tuple[str, ...],
    cells: list[Cell],
    names: dict[str, dict[str, str]],
    frameworks: dict[str, str],
) -> Group:
    rows = _rows(cells, frameworks)
    _compare(rows)
    budgets = [cell.record.budget for cell in cells if cell.record.budget]
    budget = next((b for b in budgets if b.get("limit") is not None), {})
    asked = json.loads(axes[4])
    return Group(
        *(names[axis][axes[i]] for i, axis in enumerate(AXES[:-1])),
        budget=str(budget.get("label") or budget_label(asked)),
        protocol_name=str(json.loads(axes[3]).get("name")),
        kind=_kind(cell.record for cell in cells),
        metric=str(budget.get("metric") or asked.get("metric") or ""),
        limit=budget.get("limit"),
        unit=str(budget.get("unit") or ""),
        rows=rows,
    )


def _order(group: Group) -> tuple[Any, ...]:
    name = group.protocol_name
    place = PROTOCOLS.index(name) if name in PROTOCOLS else len(PROTOCOLS)
    limit = math.inf if group.limit is None else group.limit
    return (place, *group.panel, -limit, group.budget)
