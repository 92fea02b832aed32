"""Runs: many cells, in worker processes, resumable at any cell."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.fingerprints.numerics import Place, compute_on, place_named
from benchmarks.progress.show import joined
from benchmarks.progress.times import recorded
from benchmarks.records.cache import cache_folder
from benchmarks.records.claims import Claims
from benchmarks.records.record import Record
from benchmarks.records.schema import Misfit
from benchmarks.records.shapes import FIELDS
from benchmarks.records.store import Store
from benchmarks.suite.config import Cell
from benchmarks.suite.failures import blames, plugin_of
from benchmarks.suite.identity import BadCell
from benchmarks.suite.identity import keyed as by_key
from benchmarks.suite.progress import Titles, title
from benchmarks.suite.running.agenda import Agenda
from benchmarks.suite.running.keeping import Keeper
from benchmarks.suite.running.log import Log
from benchmarks.suite.running.place import Crew
from benchmarks.suite.running.pool import compute as _compute
from benchmarks.suite.setting import check
from benchmarks.suite.tracking import NoTracker, Tracker
from benchmarks.workers.process import ChangedProcess, contained


@dataclass(frozen=True)
class Outcome:
    """What a run has led to.

    Attributes:
        records: all that were asked for.
        computed: how many cells had to be computed.
        log: if there is one.
        shared: how many cells another command computed meanwhile.
        faults: what is missing, and why.
    """

    records: list[Record]
    computed: int
    log: Path | None = None
    shared: int = 0
    faults: Sequence[str] = ()

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
    timeout: float | None = None,
    tracker: Tracker | None = None,
) -> Outcome:
    """Compute the cells whose records are missing (or failed), and return all records.

    Runs of several processes that have the same folder share its cells.

    Args:
        cells: the cells; equal ones are computed once.
        folder: records go to ``folder/records``, shared scoring passes to ``folder/scores``.
        workers: processes; 0 for one a core, or one where they would share an accelerator.
        threads: torch threads of each.
        device: where they compute; see `benchmarks.fingerprints.numerics.DEVICES`.
        amp: precision of training steps; see `benchmarks.fingerprints.numerics.PRECISIONS`.
        rerun: compute what is already there, too.
        timeout: seconds that a cell may take; one that takes longer is ended and has failed.
        tracker: mirrors each new record.

    Raises:
        ValueError, FileNotFoundError: a cell is configured wrongly; nothing has been computed.
        OSError: the folder cannot be written.
    """
    chosen = settled(workers, threads, device, amp)
    store = Store(folder / "records")
    if not any(store.folder.glob("*.json")):  # all may be there, in a folder that is only read
        store.probe_place()
    keyed = checked(cells, threads)
    have = {} if rerun else {key: record for key in keyed if (record := _finished(store, key))}
    for fault in store.corrupt.values():
        warnings.warn(f"a corrupt record is computed again: {fault}", stacklevel=2)
    todo = {key: cell for key, cell in keyed.items() if key not in have}
    every = (os.cpu_count() or 1) if chosen.device.type == "cpu" else 1
    crew = Crew(folder, min(workers or every, max(len(todo), 1)), threads, timeout)
    if not todo:
        return Outcome(list(have.values()), 0, Log(folder).written)
    store.probe(todo)
    cache_folder()  # where it cannot be used, the workers are told here what is
    shared, log = _shared(todo, store, have, crew, tracker or NoTracker())
    return Outcome([have[key] for key in keyed], len(todo) - shared, log, shared)


def settled(workers: int, threads: int, device: str, amp: str) -> Place:
    """Where a run computes, which this process does from now on; see `run` for the arguments.

    Raises:
        ValueError: a number, device or precision that there is not.
    """
    for name, count, least in (("workers", workers, 0), ("threads", threads, 1)):
        if isinstance(count, bool) or not isinstance(count, int) or count < least:
            raise ValueError(f"{name} = {count!a}: give a whole number of at least {least}")
    chosen = place_named(device, amp)
    compute_on(chosen)
    return chosen


def checked(cells: Sequence[Cell], threads: int) -> dict[str, Cell]:
    """Cells by their keys, as they are where this process computes.

    Raises:
        ValueError, FileNotFoundError: one is configured wrongly.
    """
    keyed = by_key(cells, threads)
    for cell in _distinct(list(keyed.values())):
        _check(cell)
    return keyed


def _shared(
    todo: dict[str, Cell], store: Store, have: dict[str, Record], crew: Crew, mirror: Tracker
) -> tuple[int, Path | None]:
    """See that all cells are computed; how many other commands did, and the log."""
    log = Log(crew.folder)
    with joined() as board, Claims(store.folder) as claims:
        total, titles = len(have.keys() | todo.keys()), Titles(todo.values())
        keeper = Keeper(store, have, total, log, board, mirror, titles)
        with keeper.stoppable():
            agenda = Agenda(todo, store, claims)
            board.learn(lambda: list(recorded(crew.folder)))
            board.begin(todo, crew.workers)
            try:
                others = _compute(agenda, crew, keeper.keep, board)
            finally:
                log.close(todo, board.printed())
    have.update({record.key: record for record in others})
    return len(others), log.written


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
