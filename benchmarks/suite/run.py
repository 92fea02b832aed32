"""Runs: many cells, in worker processes, resumable at any cell."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.fingerprints.numerics import compute_on, place_named
from benchmarks.progress.board import Board
from benchmarks.progress.show import joined
from benchmarks.progress.times import recorded, seconds_of
from benchmarks.records.cache import cache_folder
from benchmarks.records.record import Record
from benchmarks.records.schema import Misfit
from benchmarks.records.shapes import FIELDS
from benchmarks.records.store import Store
from benchmarks.suite.config import Cell
from benchmarks.suite.failures import blames, plugin_of
from benchmarks.suite.identity import BadCell
from benchmarks.suite.identity import keyed as by_key
from benchmarks.suite.progress import outcome, title
from benchmarks.suite.running.log import Log
from benchmarks.suite.running.pool import compute as _compute
from benchmarks.suite.setting import check
from benchmarks.suite.tracking import NoTracker, Tracker
from benchmarks.workers import stopping
from benchmarks.workers.process import ChangedProcess, contained


@dataclass(frozen=True)
class Outcome:
    """All records of a run, how many cells had to be computed, and the log if there is one."""

    records: list[Record]
    computed: int
    log: Path | None = None

    @property
    def failed(self) -> list[Record]:
        """The cells that failed."""
        return [record for record in self.records if record.status == "failed"]


def run(
    cells: Sequence[Cell],
    folder: Path,
    *,
    workers: int = 0,
    threads: int = 1,
    device: str = "cpu",
    amp: str = "off",
    rerun: bool = False,
    tracker: Tracker | None = None,
) -> Outcome:
    """Compute the cells whose records are missing (or failed), and return all records.

    Args:
        cells: the cells; equal ones are computed once.
        folder: records go to ``folder/records``, shared scoring passes to ``folder/scores``.
        workers: processes; 0 for one a core, or one where they would share an accelerator.
        threads: torch threads of each.
        device: where they compute; see `benchmarks.fingerprints.numerics.DEVICES`.
        amp: precision of training steps; see `benchmarks.fingerprints.numerics.PRECISIONS`.
        rerun: compute what is already there, too.
        tracker: mirrors each new record.

    Raises:
        ValueError, FileNotFoundError: a cell is configured wrongly; nothing has been computed.
        OSError: the folder cannot be written.
    """
    for name, count, least in (("workers", workers, 0), ("threads", threads, 1)):
        if isinstance(count, bool) or not isinstance(count, int) or count < least:
            raise ValueError(f"{name} = {count!a}: give a whole number of at least {least}")
    chosen = place_named(device, amp)
    compute_on(chosen)
    keyed = by_key(cells, threads)
    for cell in _distinct(list(keyed.values())):
        _check(cell)
    store = Store(folder / "records")
    store.folder.mkdir(parents=True, exist_ok=True)
    have = {} if rerun else {key: record for key in keyed if (record := _finished(store, key))}
    for fault in store.corrupt.values():
        warnings.warn(f"a corrupt record is computed again: {fault}", stacklevel=2)
    todo = {key: cell for key, cell in keyed.items() if key not in have}
    every = (os.cpu_count() or 1) if chosen.device.type == "cpu" else 1
    count = min(workers or every, max(len(todo), 1))
    log = Log(folder)
    if todo:
        store.probe(todo)
        cache_folder()  # where it cannot be used, the workers are told here what is
        with joined() as board, _kept(store, have, len(keyed)):
            board.learn(lambda: list(recorded(folder)))
            board.begin({key: todo[key] for key in todo}, count)
            keep = partial(_keep, store, have, log, board, tracker or NoTracker())
            try:
                _compute(todo, folder, count, threads, keep, board)
            finally:
                log.close(todo, board.printed())
    return Outcome([have[key] for key in keyed], len(todo), log.written)


def _keep(
    store: Store,
    have: dict[str, Record],
    log: Log,
    board: Board,
    mirror: Tracker,
    record: Record,
) -> None:
    """A cell has ended: what it printed, its record, and what is shown and mirrored of it."""
    log.take(record)
    store.put(record)
    have[record.key] = record
    seconds = seconds_of(record.status, record.timings)
    board.finished(record.key, title(record.cell), outcome(record), seconds)
    mirror.record(record)


@contextmanager
def _kept(store: Store, have: dict[str, Record], total: int) -> Iterator[None]:
    """Within the context, a stop says what is kept."""
    stop = stopping.current()
    before = stop.kept

    def kept() -> str:
        done = sum(record.status != "failed" for record in have.values())
        return (
            f"stopped; {done} of {total} cells are done and kept in {store.folder}\n"
            "juxtabit: run the same command again to go on with the others"
        )

    stop.kept = kept
    yield  # what comes with an exception is said after it
    stop.kept = before


def _check(cell: Cell) -> None:
    """Refuse what is configured wrongly.

    A plugin that breaks down here, instead of refusing, does so again in the worker, where it is
    one failed cell among others.
    """
    try:
        with contained(plugin_of(cell), []):
            check(cell)
        FIELDS["cell"](cell)
    except Misfit as fault:
        raise BadCell(f"{title(cell)}: {fault}; no record could hold it") from fault
    except (SystemExit, ChangedProcess):
        return
    except Exception as error:
        if isinstance(error, ValueError | OSError) or not blames(error, cell):
            raise


def _distinct(cells: Sequence[Cell]) -> list[Cell]:
    """One cell for each setting that differs in more than the seed."""
    seen = {repr({k: v for k, v in cell.items() if k != "seed"}): cell for cell in cells}
    return list(seen.values())


def _finished(store: Store, key: str) -> Record | None:
    record = store.get(key)
    return record if record and record.status != "failed" else None
