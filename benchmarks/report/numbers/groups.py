"""Groups of comparable cells, and a row of statistics for each framework in them."""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.records.names import labels
from benchmarks.records.record import Record
from benchmarks.report.numbers.bounds import Bound, bounds_of, nearest
from benchmarks.report.numbers.cells import (
    AXES,
    Cell,
    budget_label,
    dataset_labels,
    framework_labels,
    joined,
)
from benchmarks.report.numbers.comparisons import FEWEST, NOBODY, Difference, Verdict
from benchmarks.report.numbers.format import signed
from benchmarks.report.numbers.ranking import compare
from benchmarks.report.numbers.rows import Row, make_rows, mean

PROTOCOLS = ("ptq", "controlled", "paper")
"""In the order of the table; never averaged together."""
RIVALS = ("uniform", "random")
"""Baselines that all others are compared with, whichever is best."""
UNVERIFIED = "unverified"


@dataclass
class Group:
    """All cells that differ in framework and seed only.

    Attributes:
        model, dataset, hardware, protocol, budget: names for the table.
        protocol_name: ``ptq``, ``controlled`` or ``paper``.
        kind: of the hardware target: ``model``, ``table`` or ``measured``.
        rows: ranked by accuracy, then those over budget, then those without a result.
        asked: the metric that the budget names, if it names one.
        bounds: all limits; the first is that of ``metric``.
        verdict: who is best.
        shows: what the percentages are: ``accuracy``, or where searches did without labels
            ``agreement`` with the float network.
        levels: how far its records were verified, by key (see `benchmarks.records.levels`).
        hidden: rows that a view leaves out.
    """

    model: str
    dataset: str
    hardware: str
    protocol: str
    budget: str
    protocol_name: str
    kind: str
    metric: str
    rows: list[Row]
    asked: str = ""
    bounds: tuple[Bound, ...] = ()
    verdict: Verdict = NOBODY
    shows: str = "accuracy"
    levels: Mapping[str, str] = field(default_factory=dict)
    hidden: int = 0

    @property
    def panel(self) -> tuple[str, str, str, str, str]:
        """What the budgets of one accuracy-cost picture share."""
        metrics = " and ".join(bound.metric for bound in self.bounds) or self.metric
        return self.protocol, self.model, self.dataset, self.hardware, metrics

    @property
    def limit(self) -> float | None:
        """The first limit."""
        return self.bounds[0].limit if self.bounds else None

    @property
    def unit(self) -> str:
        """The first limit's unit."""
        return self.bounds[0].unit if self.bounds else ""

    @property
    def target(self) -> str:
        """The hardware target with its kind."""
        return f"{self.hardware} ({self.kind})" if self.kind else self.hardware

    @property
    def bound(self) -> str:
        """The limits as text, such as ``size <= 29,250 bytes``."""
        return " and ".join(bound.text for bound in self.bounds)

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
    def undecided(self) -> str:
        """Who could not be judged for want of seeds, in a sentence; empty if all were."""
        if sum(row.rank is not None for row in self.rows) < 2:
            return ""
        if self.verdict.best is None:
            return f"Fewer than two rows have {FEWEST} seeds: nothing can be told apart."
        names = ", ".join(self.verdict.unjudged)
        return f"With fewer than {FEWEST} seeds not judged: {names}." if names else ""

    def row(self, label: str | None) -> Row | None:
        """The row within budget of a label."""
        return next((row for row in self.rows if row.label == label and not row.over), None)

    @property
    def told(self) -> list[str]:
        """What differences are shown to: the best, and baselines against which they are others.

        Where uniform bits are the best, say, all that there is to say against them is said already.
        """
        found = ["best"]
        for rival in RIVALS:
            if not any(self._alike(rival, other) for other in found):
                found.append(rival)
        return found

    def _alike(self, rival: str, other: str) -> bool:
        """Whether the differences to two rivals are the same ones, as they are shown."""
        rows = [row for row in self.rows if rival in row.gains and self._difference(row, other)]
        return bool(rows) and all(
            self._difference(row, rival) == self._difference(row, other) for row in rows
        )

    def _difference(self, row: Row, rival: str) -> str:
        """A row's mean difference to a rival as text; that of the best row to itself is zero."""
        if rival == "best" and row.label == self.verdict.best:
            return signed(0.0)
        return signed(row.gains[rival].mean) if rival in row.gains else ""

    def behind(self, row: Row) -> Difference | None:
        """What a row is behind the best one; of one not judged, if another column would say it."""
        dropped = [row.gains.get(rival) for rival in RIVALS if rival not in self.told]
        return row.gains.get("best") or next(filter(None, dropped), None)

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

    def verified(self, row: Row) -> str:
        """How far a row's records were verified, such as ``checked 2, rerun 1``."""
        found = Counter(self.levels.get(record.key, UNVERIFIED) for record in row.records)
        if not found.keys() - {UNVERIFIED}:
            return ""
        if len(found) == 1:
            return next(iter(found))
        return ", ".join(f"{level} {found[level]}" for level in sorted(found))

    def cost(self, row: Row) -> float | None:
        """Mean cost of a row in the budget's metric."""
        return row.mean("costs", self.metric)

    def share(self, row: Row) -> float | None:
        """Mean share of the limit; of several, of that which each policy is nearest to."""
        if len(self.bounds) > 1:
            found = [nearest(record, self.bounds) for record in row.records]
            return mean(share[0] if share else None for share in found)
        cost = self.cost(row)
        return cost / self.limit if cost is not None and self.limit else None

    def binding(self, row: Row) -> str:
        """Of several limits, the metrics that its policies are nearest to; else nothing."""
        if len(self.bounds) < 2:
            return ""
        found = {share[1] for r in row.records if (share := nearest(r, self.bounds))}
        return ", ".join(bound.metric for bound in self.bounds if bound.metric in found)


def _kind(records: Iterable[Record]) -> str:
    for record in records:
        hardware = record.cell.get("hardware")
        said = hardware.get("kind") if isinstance(hardware, dict) else None
        if kind := record.budget.get("kind") or said:
            return str(kind)
    return ""


def gather(cells: Sequence[Cell], levels: Mapping[str, str] | None = None) -> list[Group]:
    """Sort cells into groups, in the order of the table.

    Args:
        cells: the cells.
        levels: how far their records were verified, by key.
    """
    cells = joined(cells)
    names = {axis: labels({cell.axes[i] for cell in cells}) for i, axis in enumerate(AXES[:-1])}
    names["dataset"] = dataset_labels(cells)
    frameworks = framework_labels(cells)
    members: dict[tuple[str, ...], list[Cell]] = defaultdict(list)
    for cell in cells:
        members[cell.axes].append(cell)
    groups = [_group(axes, found, names, frameworks) for axes, found in members.items()]
    metrics = {(g.hardware, g.asked): g.metric for g in groups if g.metric}
    for group in groups:
        group.levels = levels or {}
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
    verdict = compare(rows)
    budgets = [cell.record.budget for cell in cells if cell.record.budget]
    budget = next((b for b in budgets if b.get("limit") is not None), {})
    # The axes have sorted keys, and of several metrics the first counts.
    given = cells[0].record.cell.get("budget")
    asked = given if isinstance(given, Mapping) else json.loads(axes[4])
    model, dataset, hardware, protocol = (names[axis][axes[i]] for i, axis in enumerate(AXES[:-1]))
    settings = json.loads(axes[3])
    objective = str(settings.get("objective"))
    if objective != "accuracy" and objective not in protocol:
        protocol = f"{protocol} (objective={objective})"
    return Group(
        model=model,
        dataset=dataset,
        hardware=hardware,
        protocol=protocol,
        budget=str(budget.get("label") or budget_label(asked)),
        protocol_name=str(settings.get("name")),
        shows="accuracy" if objective == "accuracy" else "agreement",
        kind=_kind(cell.record for cell in cells),
        metric=str(budget.get("metric") or _asked(asked)),
        rows=rows,
        asked=_asked(asked),
        bounds=bounds_of(budget),
        verdict=verdict,
    )


def _asked(budget: Mapping[str, Any]) -> str:
    """The (first) metric that a cell's budget names."""
    several = budget.get("metrics")
    first = next(iter(several), "") if isinstance(several, Mapping) else ""
    return str(budget.get("metric") or first)


def _order(group: Group) -> tuple[Any, ...]:
    name = group.protocol_name
    place = PROTOCOLS.index(name) if name in PROTOCOLS else len(PROTOCOLS)
    limit = math.inf if group.limit is None else group.limit
    return (place, *group.panel, -limit, group.budget)
