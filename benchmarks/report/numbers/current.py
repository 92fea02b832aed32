"""Which records a table is made of: the newest of each cell, and never two identities as one.

Records of one configuration may be of other data, another float checkpoint or another hardware
file: they are told apart in the axes of their cells, where that is needed. Those of other code or
numerics are the same cells, made anew: the newest is taken.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from benchmarks.records.names import plain
from benchmarks.records.record import Record, digest
from benchmarks.report.numbers.cells import AXES, Cell

Told = Callable[[Cell], str]


def current(records: Iterable[Record]) -> tuple[list[Cell], int]:
    """The newest record of each cell, and how many older ones were left out.

    The finished cells of a framework in a group are all of the newest one's code and numerics.
    """
    every = apart([Cell.of(record) for record in records])
    kept = newest_of(every)
    return kept, len(every) - len(kept)


def newest_of(cells: Sequence[Cell]) -> list[Cell]:
    """The newest of each cell, in order; see `current`."""
    newest: dict[tuple[str, tuple[str, ...], int], Cell] = {}
    for cell in sorted(cells, key=_age):
        newest[cell.framework, cell.axes, cell.seed] = cell
    rows: dict[tuple[str, tuple[str, ...]], list[Cell]] = defaultdict(list)
    for cell in newest.values():
        rows[cell.framework, cell.axes].append(cell)
    kept = [cell for row in rows.values() for cell in _of_one_make(row)]
    return sorted(kept, key=lambda c: (c.axes, c.framework, c.seed))


def _age(cell: Cell) -> tuple[str, str]:
    return str(cell.record.environment.get("time", "")), cell.record.key


def _of_one_make(row: Sequence[Cell]) -> list[Cell]:
    """The cells of a row without the finished ones of another make than the newest's."""
    done = [cell for cell in row if cell.record.status == "done"]
    make = _make(max(done, key=_age)) if done else ""
    return [cell for cell in row if cell.record.status != "done" or _make(cell) == make]


def _make(cell: Cell) -> str:
    identity = cell.record.identity
    return plain({part: identity.get(part) for part in ("code", "numerics")})


def apart(cells: list[Cell]) -> list[Cell]:
    """Cells whose axes tell data, float checkpoints and hardware files of one name apart."""
    cells = _marked(cells, "dataset", "content", _content, lambda c: c.axes[1])
    cells = _marked(cells, "model", "weights", _weights, lambda c: "".join(c.axes[:2]))
    return _marked(cells, "hardware", "content", _hardware_file, lambda c: c.axes[2])


def _content(cell: Cell) -> str:
    known = cell.record.identity.get("data")
    said = known.get("fingerprint") if isinstance(known, dict) else None
    return str(said or cell.record.data.get("dataset") or "")


def _weights(cell: Cell) -> str:
    return str(cell.record.data.get("checkpoint") or "")


def _hardware_file(cell: Cell) -> str:
    files = cell.record.identity.get("files")
    return str(files.get("hardware.path") or "") if isinstance(files, dict) else ""


def _marked(cells: list[Cell], axis: str, word: str, told: Told, within: Told) -> list[Cell]:
    """Cells with what tells them apart in an axis, where those of one configuration differ in it.

    One that does not know, such as a cell that failed early, goes with the newest that does.
    """
    found: dict[str, dict[str, Cell]] = defaultdict(dict)
    for cell in sorted(cells, key=_age):
        if said := told(cell):
            found[within(cell)][said] = cell
    latest = {
        key: max(said, key=lambda text: _age(said[text]))
        for key, said in found.items()
        if len(said) > 1
    }
    place = AXES.index(axis)
    marked: list[Cell] = []
    for cell in cells:
        if within(cell) in latest:
            text = told(cell) or latest[within(cell)]
            entry = {**json.loads(cell.axes[place]), word: digest(text)[:8]}
            axes = (*cell.axes[:place], plain(entry), *cell.axes[place + 1 :])
            cell = replace(cell, axes=axes)
        marked.append(cell)
    return marked
