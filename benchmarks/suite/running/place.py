"""A place at which one worker computes one cell after the other, replaced where it must be."""

from __future__ import annotations

import contextlib
import multiprocessing
import socket
import time
import warnings
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

from loky import ProcessPoolExecutor

from benchmarks.fingerprints.numerics import place
from benchmarks.records.cache import WAITING
from benchmarks.records.record import Record
from benchmarks.suite.config import Cell
from benchmarks.suite.running import worker
from benchmarks.workers import stopping

STARTING = 120.0
"""Seconds that a worker may take to begin, in addition to what its cell has."""

# A worker that has grown by 300 MB from its first cell to the end of another is replaced by loky.
# That is as it should be, and nothing to be told.
warnings.filterwarnings("ignore", "A worker (was restarted|stopped) while some jobs", UserWarning)


@dataclass(frozen=True)
class Crew:
    """The workers of a run.

    Attributes:
        folder: of the run.
        workers: how many.
        threads: torch threads of each.
        timeout: seconds that a cell may take; None: as many as it needs.
    """

    folder: Path
    workers: int
    threads: int
    timeout: float | None = None


class Clock:
    """The time that a cell has taken.

    It begins with the cell's first message, and stands still while the cell waits for what another
    process is making, such as a float network.

    Args:
        limit: seconds that the cell may take; None: as many as it needs.
    """

    def __init__(self, limit: float | None) -> None:
        self.limit = limit
        self.stage = "starting"
        self._since = time.monotonic() + STARTING
        self._waits: float | None = None

    def hears(self, stage: str) -> None:
        """The cell tells its stage."""
        now = time.monotonic()
        if self.stage == "starting":
            self._since = now
        if stage == WAITING:
            self._waits = now if self._waits is None else self._waits
        elif self._waits is not None:
            self._since += now - self._waits
            self._waits = None
        self.stage = stage

    @property
    def late(self) -> bool:
        """Whether the cell has taken longer than it may."""
        if self.limit is None or self._waits is not None:
            return False
        return time.monotonic() - self._since > self.limit


class Place:
    """Room for a worker, which starts with the first cell.

    It is a pool of loky's of its own: where a worker dies, or is ended, no other is concerned.

    Args:
        crew: that it belongs to.
        end: where the worker tells of its progress.

    Attributes:
        key: of the cell under way; empty where there is none.
        future: gives its record.
        clock: the time it takes.
    """

    def __init__(self, crew: Crew, end: socket.socket) -> None:
        self._crew, self._end = crew, end
        self._pool: ProcessPoolExecutor | None = None
        self.key = ""
        self.future: Future[Record] = Future()
        self.clock = Clock(None)

    def begin(self, key: str, cell: Cell) -> None:
        """Let the worker compute a cell; one that died meanwhile is replaced."""
        self.key, self.clock = key, Clock(self._crew.timeout)
        with contextlib.suppress(BrokenProcessPool):
            self.future = self._submitted(cell)
            return
        self.clear()
        self.future = self._submitted(cell)

    def _submitted(self, cell: Cell) -> Future[Record]:
        with stopping.starting():
            if self._pool is None:
                context = multiprocessing.get_context("spawn")
                first = (self._crew.threads, place(), self._end)
                self._pool = ProcessPoolExecutor(
                    1, context=context, initializer=worker.begin, initargs=first
                )
            found: Future[Record] = self._pool.submit(
                worker.work, self.key, cell, self._crew.folder
            )
        return found

    def clear(self) -> None:
        """End the worker, whatever it does, and all that it has started."""
        if self._pool is not None:
            self._pool.shutdown(kill_workers=True)
        self._pool = None

    def close(self) -> None:
        """No more cells come; the worker ends by itself, and is not waited for."""
        if self._pool is not None:
            self._pool.shutdown(wait=False)
