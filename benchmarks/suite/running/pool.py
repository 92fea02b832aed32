"""Workers: processes that compute cells, replaced when they die, and ended with the run."""

from __future__ import annotations

import contextlib
import multiprocessing
import queue
import threading
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.managers import SyncManager
from pathlib import Path
from typing import Any

from benchmarks.fingerprints.numerics import place
from benchmarks.progress.board import Board
from benchmarks.records.record import Record
from benchmarks.suite.config import Cell
from benchmarks.suite.failures import explained, failed, plugin_of
from benchmarks.suite.progress import title
from benchmarks.suite.running import worker
from benchmarks.workers import stopping

GRACE, BRIEF = 10.0, 1.0
"""Seconds that a worker may take to end, after its work and before, until it is made to."""


def compute(
    todo: dict[str, Cell],
    folder: Path,
    workers: int,
    threads: int,
    keep: Callable[[Record], None],
    board: Board,
) -> None:
    """Compute cells in worker processes; whatever ends this, none of them goes on.

    Args:
        todo: the cells by their keys.
        folder: of the run.
        workers: how many.
        threads: torch threads of each.
        keep: called with each record.
        board: is told what is under way.
    """
    context = multiprocessing.get_context("spawn")
    others = set(multiprocessing.active_children())
    try:
        manager = SyncManager(ctx=context)
        with stopping.starting():
            manager.start(initializer=stopping.subordinate)
        with manager:
            messages = manager.Queue()
            listener = threading.Thread(target=_listen, args=(messages, board), daemon=True)
            listener.start()
            Workers(folder, workers, threads, keep, board, messages).persist(todo)
            messages.put(None)
            listener.join(timeout=5)
    except BaseException:
        stopping.end_children(others)
        raise


class Workers:
    """A pool at a time. The arguments are those of `compute`.

    Args:
        messages: a queue for the stages of cells.
    """

    def __init__(
        self,
        folder: Path,
        workers: int,
        threads: int,
        keep: Callable[[Record], None],
        board: Board,
        messages: Any,
    ) -> None:
        self.folder, self.workers, self.threads = folder, workers, threads
        self.keep, self.board, self.messages = keep, board, messages

    def persist(self, todo: dict[str, Cell]) -> None:
        """Compute cells. Of those that a worker had when it died (killed, out of memory) each is
        tried again in a process of its own, and one that ends that, too, has failed; the rest goes
        on.
        """
        left = todo
        while left:
            suspects, left = self.pooled(left, self.workers)
            for key, cell in suspects.items():
                died, _ = self.pooled({key: cell}, 1)
                if died:
                    self.keep(_died(key, cell))

    def pooled(
        self, todo: dict[str, Cell], workers: int
    ) -> tuple[dict[str, Cell], dict[str, Cell]]:
        """Compute cells in a pool until a worker dies: what was under way then, and what was
        not.
        """
        context = multiprocessing.get_context("spawn")
        others = set(multiprocessing.active_children())
        pool = ProcessPoolExecutor(
            workers,
            context,
            initializer=worker.begin,
            initargs=(self.threads, place(), self.messages),
        )
        waiting, flying, dead = list(todo), dict[Future[Record], str](), list[str]()
        try:
            while (waiting or flying) and not dead:
                while waiting and len(flying) < workers and not dead:
                    key = waiting.pop(0)
                    self.board.start(key, title(todo[key]))
                    try:
                        with stopping.starting():
                            flying[pool.submit(worker.work, key, todo[key], self.folder)] = key
                    except BrokenProcessPool:
                        dead.append(key)
                for future in wait(flying, return_when=FIRST_COMPLETED).done:
                    key = flying.pop(future)
                    record = outcome_of(future, key, todo[key])
                    if record is None:
                        dead.append(key)
                    else:
                        self.keep(record)
        except BaseException:
            stopping.end_children(others)
            raise
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            _end(set(multiprocessing.active_children()) - others, BRIEF if dead else GRACE)
        suspects = [*dead, *flying.values()] if dead else []
        return {key: todo[key] for key in suspects}, {key: todo[key] for key in waiting}


def outcome_of(future: Future[Record], key: str, cell: Cell) -> Record | None:
    """The record that a worker sent, or one that says why it sent another thing; None: it died."""
    try:
        return future.result()
    except BrokenProcessPool:
        return None
    except Exception as error:
        return failed(key, cell, explained(error, cell))


def _end(workers: set[multiprocessing.process.BaseProcess], grace: float) -> None:
    """Wait for workers that have nothing to do; threads that plugins started may hold them up."""
    for one in workers:
        one.join(grace)
        if one.is_alive():
            one.kill()
            one.join()


def _died(key: str, cell: Cell) -> Record:
    error = (
        "the worker process died without a message (killed, out of memory, os._exit, or a crash "
        f"in compiled code) while it computed {plugin_of(cell)}"
    )
    return failed(key, cell, error)


def _listen(messages: Any, board: Board) -> None:
    while True:
        try:
            message = messages.get(timeout=1)
        except queue.Empty:
            continue
        except (EOFError, OSError):
            return
        if message is None:
            return
        with contextlib.suppress(Exception):  # what cannot be shown must not end what can be
            board.stage(*message)
