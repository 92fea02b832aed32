"""Rows: one framework in one group of comparable cells."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.records.record import Record
from benchmarks.report.numbers.bounds import within
from benchmarks.report.numbers.cells import Cell
from benchmarks.report.numbers.comparisons import Difference
from benchmarks.report.numbers.format import last_line
from benchmarks.report.numbers.statistics import Estimate

BASELINES = ("uniform", "random", "greedy", "exhaustive")
"""What is a baseline in records without a card."""
GIVEN = "given"
"""The framework of policies found elsewhere; its records hold what scoring them cost."""


def mean(values: Iterable[float | None]) -> float | None:
    """The mean of what was measured; None if nothing was."""
    kept = [v for v in values if v is not None]
    total = math.fsum(kept)
    return total / len(kept) if kept and math.isfinite(total) else None


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
        gains: the same, as mean and interval; and those to the ``best`` row, of all others.
        best: whether it is the best row of its group or not told apart from it; None where that
            was not judged (see `benchmarks.report.numbers.comparisons`).
        random: the random search that the row is compared with.
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
    best: bool | None = None
    random: Row | None = None

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
    def given(self) -> bool:
        """Whether its policies were found elsewhere: another toolkit's, or a paper's."""
        return self.name == GIVEN

    @property
    def baseline(self) -> bool:
        """Whether it is a baseline and no surveyed framework; what is given is neither."""
        if self.given:
            return False
        return self.card.get("category") == "baseline" or (not self.card and self.name in BASELINES)

    @property
    def category(self) -> str:
        """The category of the framework, ``baseline`` and ``given`` among them."""
        if self.given:
            return GIVEN
        return "baseline" if self.baseline else str(self.card.get("category") or "other")

    def mean(self, part: str, key: str) -> float | None:
        """Mean over the seeds of an entry such as ``("search", "policies")``."""
        return mean(self._part(record, part).get(key) for record in self.records)

    def _part(self, record: Record, part: str) -> Mapping[str, Any]:
        """A part of a record; what a given policy's search cost is only what its file says."""
        if part == "search" and self.given:
            said = record.notes.get("elsewhere")
            return said if isinstance(said, Mapping) else {}
        found: Mapping[str, Any] = getattr(record, part)
        return found

    @property
    def images(self) -> float | None:
        """Mean images processed by the search, forward plus backward."""
        passes = [self.mean("search", f"images_{way}") for way in ("forward", "backward")]
        known = [count for count in passes if count is not None]
        return math.fsum(known) if known else None

    @property
    def untrained(self) -> float | None:
        """Mean accuracy before the protocol's training; None under one that does not train."""
        trained = [r.accuracy for r in self.records if r.accuracy.get("fine_tuned") is not None]
        return mean(accuracy.get("ptq") for accuracy in trained)

    @property
    def front(self) -> float | None:
        """Mean points of the Pareto fronts, None for a method that finds none."""
        return mean(len(record.front) or None for record in self.records)

    @property
    def status(self) -> str:
        """What is not as it should be, in a few words."""
        notes = ["OVER BUDGET"] if self.over else []
        if self.over_count and not self.over:
            notes.append(f"{self.over_count} over budget")
        if any(record.notes.get("outside") for record in self.records):
            notes.append("outside the space")
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

    def accuracies(self) -> dict[tuple[int, str], float]:
        """Final accuracy by what pairs cells."""
        return {cell.pair: float(cell.record.accuracy["final"] or 0) for cell in self.cells}


def make_rows(cells: Sequence[Cell], names: dict[str, str]) -> list[Row]:
    """The rows of a group's cells, without statistics; ``names`` are the frameworks' labels."""
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
