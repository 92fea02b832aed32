"""Cells in words: their names, and how they ended."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

from benchmarks.progress.times import duration
from benchmarks.records.names import labels, name_of, plain
from benchmarks.records.record import Record
from benchmarks.suite.config import Cell
from benchmarks.suite.options.budgets import label_of

AXES = ("framework", "model", "dataset", "hardware", "protocol")
"""What a cell's name has, besides the budget and the seed."""


class Titles:
    """Short names of some cells; those that would have the same one are told apart.

    Two sweeps of ``random`` beside methods of other lengths, say, are ``random (evaluations=5)``
    and ``random``. A cell that is not among them has its plain name.
    """

    def __init__(self, cells: Iterable[Cell]) -> None:
        alike: dict[str, list[Cell]] = defaultdict(list)
        for cell in cells:
            alike[title(cell)].append(cell)
        self._names = {
            key: name
            for members in alike.values()
            if len(members) > 1
            for key, name in _told_apart(members)
        }

    def __call__(self, cell: Cell) -> str:
        return self._names.get(plain(cell)) or title(cell)


def _told_apart(cells: Sequence[Cell]) -> Iterator[tuple[str, str]]:
    """The text of each cell, and its name with the settings in which it differs."""
    names = {axis: labels({plain(cell[axis]) for cell in cells}) for axis in AXES}
    for cell in cells:
        yield plain(cell), _title(cell, {axis: names[axis][plain(cell[axis])] for axis in AXES})


def title(cell: Cell) -> str:
    """Short name of a cell by itself; see `Titles` for several."""
    return _title(cell, {axis: name_of(cell[axis]) for axis in AXES})


def _title(cell: Cell, names: Mapping[str, str]) -> str:
    return (
        f"{names['framework']} {names['model']} {names['dataset']} {names['hardware']} "
        f"{label_of(cell)} {names['protocol']} seed={cell['seed']}"
    )


def outcome(record: Record) -> str:
    """How a cell ended."""
    seconds = duration(record.timings.get("total", 0.0))
    if record.status == "failed":
        reason = (record.error or "").strip().splitlines()
        return f"FAILED in {seconds} ({reason[-1] if reason else 'no message'})"
    if record.status == "skipped":
        return f"skipped ({record.reason})"
    over = "" if record.budget["within"] else " OVER BUDGET"
    return f"{record.accuracy['final']:.2f} %{over} in {seconds}"
