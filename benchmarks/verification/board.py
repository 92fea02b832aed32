"""Submitted records against the board that is there: drift of known cells, new rows, ranks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.records.record import Record
from benchmarks.report.formats.blocks import Block, marked_name
from benchmarks.report.numbers import format as show
from benchmarks.report.numbers.cells import Cell
from benchmarks.report.numbers.current import apart, newest_of
from benchmarks.report.numbers.groups import Group, gather
from benchmarks.report.numbers.rows import Row

_Place = tuple[tuple[str, ...], str, bool]
"""What a row is of: the group's axes, the framework's configuration, and whether over budget."""


@dataclass(frozen=True)
class Against:
    """What a submission would change.

    Attributes:
        drift: known cells, and what is measured of them now.
        ranks: rows of the groups that the submission touches, before and after.
        known, equal, new: cells that the board has, those of them with the same final accuracy,
            and those that it does not have.
    """

    drift: Block
    ranks: Block
    known: int
    equal: int
    new: int


def against(submitted: Sequence[Record], board: Iterable[Record]) -> Against:
    """Compare submitted records with a board's; leave those with faults out of them."""
    known = list(board)
    # Data and float networks of one name are told apart in both alike.
    marked = apart([Cell.of(record) for record in (*known, *submitted)])
    before, ours = newest_of(marked[: len(known)]), marked[len(known) :]
    there = {(cell.framework, cell.axes, cell.seed): cell for cell in before}
    pairs = [
        (cell, there[cell.framework, cell.axes, cell.seed])
        for cell in ours
        if (cell.framework, cell.axes, cell.seed) in there
    ]
    moved = [(new, old) for new, old in pairs if _final(new.record) != _final(old.record)]
    touched = {cell.axes for cell in ours}
    groups = [_touched(cells, touched) for cells in (before, newest_of(marked))]
    return Against(
        drift=_drift(moved),
        ranks=_ranks(*groups),
        known=len(pairs),
        equal=len(pairs) - len(moved),
        new=len(ours) - len(pairs),
    )


def _final(record: Record) -> float | None:
    return record.accuracy.get("final")


def _touched(cells: Sequence[Cell], axes: set[tuple[str, ...]]) -> list[Group]:
    return gather([cell for cell in cells if cell.axes in axes])


def _drift(moved: Sequence[tuple[Cell, Cell]]) -> Block:
    rows = []
    for new, old in moved:
        now, then = _final(new.record), _final(old.record)
        difference = f"{now - then:+.2f}" if now is not None and then is not None else ""
        name = str(new.record.cell["framework"]["name"])
        said = [show.fixed(value) or "-" for value in (then, now)]
        basis = "" if new.basis == old.basis else f"{old.basis or 'unknown'} -> {new.basis}"
        rows.append([new.record.key, name, f"seed {new.seed}", *said, difference, basis])
    headings = ["record", "framework", "", "board", "submitted", "difference", "made with"]
    return Block("Known cells that differ", headings, rows, frozenset({0, 1, 2, 6}))


def _ranks(before: Sequence[Group], after: Sequence[Group]) -> Block:
    """Rows whose rank changes, and new ones."""
    places: Mapping[_Place, Row] = {_place(row): row for g in before for row in g.rows if row.cells}
    rows = []
    for group in after:
        for row in group.rows:
            old = places.get(_place(row)) if row.cells else None
            if not row.cells or (old is not None and old.rank == row.rank):
                continue
            rank = f"{(old.rank or '-') if old else 'new'} -> {row.rank or '-'}"
            values = [_mean(old), _mean(row), row.status]
            rows.append([group.title, marked_name(row), rank, *values])
    headings = ["group", "framework", "rank", "board", "after", "status"]
    return Block("Ranks that change, and new rows", headings, rows, frozenset({0, 1, 5}))


def _place(row: Row) -> _Place:
    return row.cells[0].axes, row.cells[0].framework, row.over


def _mean(row: Row | None) -> str:
    return "" if row is None or row.accuracy is None else show.fixed(row.accuracy.mean)
