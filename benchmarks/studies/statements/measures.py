"""What statements may be made of: numbers of committed records, and of pages made from them.

Accuracies are means over the seeds of top-1 on the test split, in percent, of what is within its
budget, as in the table; differences are in points.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import cache
from itertools import dropwhile, takewhile
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.records.store import find_records
from benchmarks.report.numbers.comparisons import compared
from benchmarks.report.numbers.groups import Group
from benchmarks.report.numbers.rows import Row
from benchmarks.report.table import Table, build

ROOT = Path(__file__).resolve().parents[3]


@cache
def table(folder: str) -> Table:
    """The table of a folder's records."""
    return build(find_records(ROOT / folder))


def group(records: str, **axes: str) -> Group:
    """The one group of a folder's records with these axes, such as ``budget="like=3"``.

    Raises:
        LookupError: there is not one; the message lists those there are.
    """
    groups = table(records).groups
    found = [g for g in groups if all(getattr(g, axis) == value for axis, value in axes.items())]
    if len(found) != 1:
        there = "; ".join(g.title for g in groups)
        raise LookupError(f"{len(found)} groups of {records} have {axes}; there are {there}")
    return found[0]


def _row(name: str, among: Group) -> Row:
    found = [row for row in among.rows if row.label == name and row.accuracy and not row.over]
    if len(found) != 1:
        labels = ", ".join(row.label for row in among.rows)
        raise LookupError(f"{name} has {len(found)} results in {among.title}; there are {labels}")
    return found[0]


def _ranked(among: Group, who: str) -> list[Row]:
    """The rows with a result: of ``frameworks``, ``baselines`` or ``all``."""
    rows = [row for row in among.rows if row.rank]
    return [row for row in rows if who == "all" or row.baseline == (who == "baselines")]


def mean(name: str, among: Group) -> float:
    """Mean accuracy of a framework."""
    row = _row(name, among)
    return row.accuracy.mean if row.accuracy else 0.0


def best(among: Group, who: str = "frameworks") -> float:
    """The highest mean accuracy of ``frameworks``, ``baselines`` or ``all``."""
    return max(mean(row.label, among) for row in _ranked(among, who))


def worst(among: Group, who: str = "frameworks") -> float:
    """The lowest mean accuracy."""
    return min(mean(row.label, among) for row in _ranked(among, who))


def ahead(name: str, among: Group, who: str = "all") -> float:
    """How many of the others a framework's mean accuracy is above."""
    others = [row for row in _ranked(among, who) if row.label != name]
    return sum(mean(name, among) > mean(row.label, among) for row in others)


def float_accuracy(among: Group) -> float:
    """Accuracy of the float network."""
    found = {r.accuracy.get("float") for row in among.rows for r in row.records}
    if len(found) != 1 or not isinstance(value := found.pop(), float):
        raise LookupError(f"the float networks of {among.title} are not one")
    return value


def drop(name: str, among: Group) -> float:
    """Points of float accuracy that a framework loses."""
    return float_accuracy(among) - mean(name, among)


def gain(name: str, rival: str, among: Group) -> float:
    """Points over a rival, by pairs of equal seeds."""
    sides = {name: (_row(name, among).accuracies(), _row(rival, among).accuracies())}
    found = compared(sides)
    if not found:
        raise LookupError(f"{name} and {rival} share no seed in {among.title}")
    return found[name].mean


def told_apart(name: str, rival: str, among: Group) -> bool:
    """Whether a framework differs from a rival at 5 % by the paired t test, after Holm's correction
    (Holm, 1979) for comparing all rows of the group with that rival.
    """
    against = _row(rival, among).accuracies()
    others = [row.label for row in _ranked(among, "all") if row.label != rival]
    if name not in others:
        raise LookupError(f"{name} has no result in {among.title}")
    found = compared({label: (_row(label, among).accuracies(), against) for label in others})
    return name in found and found[name].significant


def beaters(rival: str, among: Group) -> int:
    """How many rows are ahead of a rival and told apart from it."""
    others = [row.label for row in _ranked(among, "all") if row.label != rival]
    ahead_of = [name for name in others if mean(name, among) > mean(rival, among)]
    return sum(told_apart(name, rival, among) for name in ahead_of)


def spread(among: Group, *left_out: str) -> float:
    """Points between the best and the worst of all rows but some."""
    means = [mean(row.label, among) for row in _ranked(among, "all") if row.label not in left_out]
    return max(means) - min(means)


def bits(name: str, kind: str, among: Group) -> float:
    """Mean bits of ``weight`` or ``act``."""
    return fmean(record.bits[kind] for record in _row(name, among).records)


def searched(name: str, what: str, among: Group) -> float:
    """Mean search cost: ``policies``, ``images_forward``, ``seconds`` ..."""
    return fmean(float(record.search[what]) for record in _row(name, among).records)


def valid(name: str, among: Group) -> float:
    """Mean accuracy of the found policies on the search-validation images, before any training."""
    return fmean(float(record.accuracy["valid"] or 0.0) for record in _row(name, among).records)


def cells(records: str, status: str) -> int:
    """How many cells of a folder are ``done``, ``failed``, ``skipped`` or ``over`` budget."""
    rows = [row for each in table(records).groups for row in each.rows]
    if status == "over":
        return sum(len(row.cells) for row in rows if row.over)
    counts: dict[str, Callable[[Row], int]] = {
        "done": lambda row: len(row.cells),
        "failed": lambda row: len(row.failed),
        "skipped": lambda row: len(row.skipped),
    }
    return sum(counts[status](row) for row in rows)


def elsewhere(name: str, which: str, page: str) -> int:
    """Of a transfer page: policies of a framework ``over`` other hardware's budget, or ``all``."""
    section = (ROOT / page).read_text(encoding="utf-8").replace("\\", "").split(f"### {name}:")
    found = re.search(r"- (\d+) of (\d+) policies", section[1]) if len(section) == 2 else None
    if found is None:
        raise LookupError(f"{page} has no section of {name}")
    return int(found[1 if which == "over" else 2])


def entry(page: str, row: str, column: str, below: str = "") -> float:
    """A number of a table in a committed page: its row begins with the texts ``row`` (joined by
    `` | ``) and its column is so headed; ``below`` is how a line above the table begins, or how
    several do, from the top (joined by `` > ``).
    """
    text = (ROOT / page).read_text(encoding="utf-8").replace("\\_", "_")
    lines = [_cells(line) for line in _below(text.splitlines(), below)]
    found, heading = [], list[str]()
    for before, line in zip([[], *lines], lines, strict=False):
        heading = line if line and not before else heading
        if column in heading and line[: row.count("|") + 1] == row.split(" | "):
            found.append(float(line[heading.index(column)].strip("*").split(" ")[0]))
    if len(found) != 1:
        raise LookupError(f"{page} has {len(found)} entries in row {row!r}, column {column!r}")
    return found[0]


def _below(lines: list[str], start: str) -> list[str]:
    """The first table below lines that begin so; all lines where nothing is asked for."""
    if not start:
        return lines
    for part in start.split(" > "):
        first = next((i for i, line in enumerate(lines) if line.startswith(part)), None)
        if first is None:
            raise LookupError(f"no line begins with {part!r}")
        lines = lines[first + 1 :]
    begun = list(dropwhile(lambda line: not line.startswith("|"), lines))
    return list(takewhile(lambda line: line.startswith("|"), begun))


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("| ").split("|")] if line.startswith("|") else []


def ratio(name: str) -> float:
    """A row of ``results/performance.json``."""
    return float(next(row["ratio"] for row in _json("results/performance.json")["rows"]
                      if row["name"] == name))  # fmt: skip


def families(which: str) -> int:
    """Of ``results/families.json``: families that ``work``, or ``all``."""
    found = _json("results/families.json")["families"]
    return sum(which == "all" or "error" not in row for row in found)


def latency(path: str, layer: str, width: int) -> float:
    """A layer's latency at equal weight and activation bits, in the table's unit."""
    rows = _json(path)["rows"]
    wanted = (layer, width, width)
    return float(next(r["cost"] for r in rows if (r["layer"], r["w_bits"], r["a_bits"]) == wanted))


@cache
def _json(path: str) -> Any:
    return json.loads((ROOT / path).read_text(encoding="utf-8"))


FUNCTIONS: dict[str, Callable[..., Any]] = {
    f.__name__: f
    for f in (mean, best, worst, ahead, float_accuracy, drop, gain, told_apart, beaters, spread,
              bits, searched, valid, cells, elsewhere, entry, ratio, families, latency)
}  # fmt: skip
