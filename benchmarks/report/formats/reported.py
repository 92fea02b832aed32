"""The table's other half: what the papers report, each number with its source."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from benchmarks.records.sheet import rows_of
from benchmarks.report.formats.blocks import Block

MARKS = {
    "verified": "read in the paper's abstract, its official code or a figure that quotes it",
    "verified-2nd": "read in another publication or summary that quotes it; it may hold slips",
}
"""Numbers from memory have no mark and no place here."""


@dataclass(frozen=True)
class Reported:
    """One published number.

    Attributes:
        setting: bits, compression or budget that the number belongs to.
        value: the number, in the unit that ``metric`` names.
        float_value: the same of the float network, None if the source does not give it.
        source: where it was read.
        mark: how far to trust it, see `MARKS`.
    """

    framework: str
    model: str
    dataset: str
    metric: str
    setting: str
    value: float
    float_value: float | None
    source: str
    mark: str


COLUMNS = tuple(f.name for f in fields(Reported))


def default_path() -> Path | None:
    """``reported.csv`` in a checkout's results, or beside this package's code."""
    package = Path(__file__).resolve().parents[2]
    places = (package.parent / "results" / "reported.csv", package / "reported.csv")
    return next((place for place in places if place.is_file()), None)


def read(path: Path) -> list[Reported]:
    """Read the published numbers, in the file's order.

    Raises:
        OSError: the file cannot be read.
        ValueError: a column or a value is wrong; the message names file, line and fault.
    """
    return rows_of(path, COLUMNS, _checked)


def _checked(row: dict[str, str], where: str) -> Reported:
    if None in row or None in row.values():
        raise ValueError(f"{where}: not {len(COLUMNS)} fields")
    if row["mark"] not in MARKS:
        raise ValueError(f"{where}: mark {row['mark']!r} is none of {list(MARKS)}")
    if not row["source"]:
        raise ValueError(f"{where}: a number without a source")
    try:
        value = float(row["value"])
        float_value = float(row["float_value"]) if row["float_value"] else None
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    numbers: dict[str, Any] = {"value": value, "float_value": float_value}
    return Reported(**{**row, **numbers})


@dataclass(frozen=True)
class Entry:
    """All numbers of one published operating point from one source."""

    framework: str
    model: str
    dataset: str
    setting: str
    source: str
    mark: str
    numbers: tuple[Reported, ...]


def entries(numbers: Sequence[Reported]) -> list[Entry]:
    """Published numbers by operating point, in order of appearance."""
    found: dict[tuple[str, str, str, str, str, str], list[Reported]] = {}
    for n in numbers:
        point = (n.framework, n.model, n.dataset, n.setting, n.source, n.mark)
        found.setdefault(point, []).append(n)
    return [Entry(*point, tuple(members)) for point, members in found.items()]


TOP1 = "top-1 (%)"
_METRICS = (TOP1, "size (MB)", "BOPs (G)")
"""Published metrics with a column of their own."""


def _published(number: Reported) -> str:
    floating = "" if number.float_value is None else f" ({number.float_value:g})"
    return f"{number.value:g}{floating}"


def reported_block(entries: Sequence[Entry]) -> Block:
    """The published half, with the sources numbered below it."""
    sources = {(e.source, e.mark): 0 for e in entries}
    sources = {source: n for n, source in enumerate(sources, 1)}
    rows = []
    for e in entries:
        by_metric = {n.metric: _published(n) for n in e.numbers}
        other = "; ".join(f"{m} {text}" for m, text in by_metric.items() if m not in _METRICS)
        values = [by_metric.get(metric, "") for metric in _METRICS]
        place = f"[{sources[e.source, e.mark]}]"
        rows.append([e.framework, e.model, e.dataset, e.setting, *values, other, place])
    headings = ["framework", "model", "dataset", "setting", *_METRICS, "other", "source"]
    notes = ["In parentheses: the float network."]
    notes += [f"[{n}] {source} ({mark})" for (source, mark), n in sources.items()]
    notes += [f"{mark}: {meaning}." for mark, meaning in MARKS.items()]
    return Block("As published", headings, rows, frozenset({0, 1, 2, 3, 7, 8}), notes)
