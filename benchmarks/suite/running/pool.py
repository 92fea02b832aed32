"""Workers: processes that compute cells, replaced when they die, and ended with the run."""

from __future__ import annotations

import multiprocessing
import re
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, wait

from loky.process_executor import TerminatedWorkerError

from benchmarks.progress.board import Board
from benchmarks.progress.times import duration
from benchmarks.records.record import Record
from benchmarks.suite.config import Cell
from benchmarks.suite.failures import explained, failed, plugin_of
from benchmarks.suite.progress import Titles
from benchmarks.suite.running.agenda import Agenda
from benchmarks.suite.running.place import Crew, Place
from benchmarks.workers import stopping
from benchmarks.workers.wire import Wire

GRACE = 10.0
"""Seconds that workers may take to end, after their work, until they are made to."""
TICK = 0.5
"""Seconds after which is looked for cells that take too long, and for those of other commands."""


def compute(
    agenda: Agenda, crew: Crew, keep: Callable[[Record], None], board: Board
) -> list[Record]:
    """Compute cells in worker processes; whatever ends this, none of them goes on.

    Args:
        agenda: the cells.
        crew: how many workers, and how they compute.
        keep: called with each record.
        board: is told what is under way.

    Returns:
        records that other commands made meanwhile.
    """
    others = set(multiprocessing.active_children())
    try:
        with stopping.beyond_terminal():
            workers = Workers(agenda, crew, keep, board)
            workers.persist()
    except BaseException:
        stopping.end_children(others)
        raise
    _end(set(multiprocessing.active_children()) - others)
    return agenda.elsewhere


class Workers:
    """A place for each worker. The arguments are those of `compute`."""

    def __init__(
        self, agenda: Agenda, crew: Crew, keep: Callable[[Record], None], board: Board
    ) -> None:
        self.agenda, self.crew, self.keep, self.board = agenda, crew, keep, board
        self.title = Titles(agenda.todo.values())
        self.places: list[Place] = []
        self._told = 0

    @property
    def busy(self) -> list[Place]:
        """The places at which cells are under way."""
        return [place for place in self.places if place.key]

    def persist(self) -> None:
        """Compute cells until all are there.

        Where a worker dies (killed, out of memory) the others go on. Its cell is tried once more
        when these are done, alone if it was killed as it is where memory runs out; if that ends a
        worker, too, it has failed. So has one that takes longer than it may.
        """
        with Wire(self._hears) as wire:
            self.places = [Place(self.crew, wire.end) for _ in range(self.crew.workers)]
            while self.agenda.left or self.busy:
                self._begin()
                wait([place.future for place in self.busy], TICK, FIRST_COMPLETED)
                if not self.busy:
                    time.sleep(TICK)
                for place in self.busy:
                    self._look(place)
            for place in self.places:
                place.close()

    def _begin(self) -> None:
        """Give cells to the workers that have none, and say what other commands have done."""
        for place in self.places:
            if place.key:
                continue
            key = self.agenda.take(idle=not self.busy)
            if key is None:
                break
            cell = self.agenda.todo[key]
            self.board.start(key, self.title(cell))
            place.begin(key, cell)
        new = self.agenda.elsewhere[self._told :]
        self._told += len(new)
        for record in new:
            self.board.finished(record.key, self.title(record.cell), "by another command", None)
        if len(self.busy) < len(self.places):
            for who in self.agenda.others:
                self.board.warn(f"{who} computes cells of this folder; they are shared")

    def _look(self, place: Place) -> None:
        """Take what a worker has to give; end it where it has taken too long."""
        key, cell = place.key, self.agenda.todo[place.key]
        if place.future.done():
            record = self._outcome(place, cell)
        elif place.clock.late:
            record = _late(key, cell, place.clock.limit or 0.0, place.clock.stage)
            place.clear()
        else:
            return
        place.key = ""
        if record is not None:
            self.keep(record)
            self.agenda.done(key)

    def _outcome(self, place: Place, cell: Cell) -> Record | None:
        """The record that a worker sent, or one that says why it sent another thing.

        None: it died, and the cell is tried again.
        """
        try:
            return place.future.result()
        except TerminatedWorkerError as error:
            place.clear()
            found = re.search(r"exit codes of the workers are \{(.+?)\}", str(error))
            how = f": {found[1]}" if found else ""
            again = self.agenda.again(place.key, alone="SIGKILL" in how)
            return None if again else _died(place.key, cell, how)
        except Exception as error:
            return failed(place.key, cell, explained(error, cell))

    def _hears(self, key: str, done: int, total: int, stage: str) -> None:
        for place in self.places:
            if place.key == key:
                place.clock.hears(stage)
        self.board.stage(key, done, total, stage)


def _end(workers: set[multiprocessing.process.BaseProcess]) -> None:
    """Wait for workers that have nothing to do; threads that plugins started may hold them up."""
    until = time.monotonic() + GRACE
    for one in workers:
        one.join(max(0.0, until - time.monotonic()))
        if one.is_alive():
            one.kill()
            one.join()


def _died(key: str, cell: Cell, how: str) -> Record:
    error = (
        "the worker process died without a message (killed, out of memory, os._exit, or a crash "
        f"in compiled code) while it computed {plugin_of(cell)}"
    )
    return failed(key, cell, f"{error}{how}")


def _late(key: str, cell: Cell, limit: float, stage: str) -> Record:
    error = (
        f"not done after {duration(limit)}, and ended by timeout={limit:g} ({plugin_of(cell)}, "
        f"stage: {stage}): run it again with a longer one, as in timeout={2 * limit:g}, or without"
    )
    record = failed(key, cell, error)
    record.timings["total"] = limit
    return record
