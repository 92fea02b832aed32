"""What becomes of a cell's record: it is kept, shown and mirrored."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from benchmarks.progress.board import Board
from benchmarks.progress.times import seconds_of
from benchmarks.records.record import Record
from benchmarks.records.store import Store
from benchmarks.suite.progress import Titles, outcome
from benchmarks.suite.running.log import Log
from benchmarks.suite.tracking import Tracker
from benchmarks.workers import stopping


@dataclass(frozen=True)
class Keeper:
    """Keeps the records of a run.

    Attributes:
        store: where.
        have: records by their keys, those of before among them.
        total: how many there will be.
        log: of the run.
        board: shows them.
        mirror: gets each new one.
        title: names their cells.
    """

    store: Store
    have: dict[str, Record]
    total: int
    log: Log
    board: Board
    mirror: Tracker
    title: Titles

    def keep(self, record: Record) -> None:
        """A cell has ended: what it printed, its record, and what is shown and mirrored of it.

        Raises:
            OSError: the record cannot be written; the message says what is kept.
        """
        name = self.title(record.cell)
        self.log.take(record, name)
        try:
            self.store.put(record)
        except OSError as error:
            raise OSError(f"{error}: {self.state()}") from error
        self.have[record.key] = record
        seconds = seconds_of(record.status, record.timings)
        self.board.finished(record.key, name, outcome(record), seconds)
        self.mirror.record(record)

    def state(self) -> str:
        """What is kept, and how to go on."""
        done = sum(record.status != "failed" for record in self.have.values())
        return (
            f"stopped; {done} of {self.total} cells are done and kept in {self.store.folder}\n"
            "juxtabit: run the same command again to go on with the others"
        )

    @contextmanager
    def stoppable(self) -> Iterator[None]:
        """Within the context, a stop says what is kept."""
        stop = stopping.current()
        before, stop.kept = stop.kept, self.state
        yield  # what comes with an exception is said after it
        stop.kept = before
