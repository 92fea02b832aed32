"""Runs: many cells, in worker processes, resumable at any cell."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import queue
import threading
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.managers import SyncManager
from pathlib import Path
from typing import Any

from benchmarks.fingerprints.numerics import Place, compute_on, place, place_named
from benchmarks.records import escape
from benchmarks.records.cache import cache_folder
from benchmarks.records.record import Record
from benchmarks.records.schema import Misfit
from benchmarks.records.shapes import FIELDS
from benchmarks.records.store import Store
from benchmarks.suite import cell as cells_module
from benchmarks.suite.config import Cell
from benchmarks.suite.failures import blames, explained, failed, plugin_of
from benchmarks.suite.identity import BadCell
from benchmarks.suite.identity import keyed as by_key
from benchmarks.suite.progress import Display, title
from benchmarks.suite.setting import check
from benchmarks.suite.tracking import NoTracker, Tracker
from benchmarks.workers.memory import keep_freed_memory
from benchmarks.workers.process import ChangedProcess, contained

GRACE, BRIEF = 10.0, 1.0
"""Seconds that a worker may take to end, after its work and before, until it is made to."""
LONGEST_STAGE = 200
"""Letters of what a cell says of its progress."""
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Outcome:
    """All records of a run and how many cells had to be computed."""

    records: list[Record]
    computed: int

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
    mirror = tracker or NoTracker()
    every = (os.cpu_count() or 1) if chosen.device.type == "cpu" else 1
    count = min(workers or every, max(len(todo), 1))
    display = Display(len(todo), count)

    def keep(record: Record) -> None:
        store.put(record)
        have[record.key] = record
        display.finished(record)
        mirror.record(record)

    if todo:
        store.probe(todo)
        cache_folder()  # where it cannot be used, the workers are told here what is
        _compute(todo, folder / "scores", count, threads, keep, display)
    return Outcome([have[key] for key in keyed], len(todo))


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


def _compute(
    todo: dict[str, Cell],
    scores: Path,
    workers: int,
    threads: int,
    keep: Callable[[Record], None],
    display: Display,
) -> None:
    context = multiprocessing.get_context("spawn")
    manager = SyncManager(ctx=context)
    manager.start(initializer=end_with_parent)
    with manager:
        messages = manager.Queue()
        listener = threading.Thread(target=_listen, args=(messages, display), daemon=True)
        listener.start()
        _persistent(todo, scores, workers, threads, keep, messages)
        messages.put(None)
        listener.join(timeout=5)


def _persistent(
    todo: dict[str, Cell],
    scores: Path,
    workers: int,
    threads: int,
    keep: Callable[[Record], None],
    messages: Any,
) -> None:
    """Compute cells. Of those that a worker had when it died (killed, out of memory) each is tried
    again in a process of its own, and one that ends that, too, has failed; the rest goes on.
    """
    left = todo
    while left:
        suspects, left = _pooled(left, scores, workers, threads, keep, messages)
        for key, cell in suspects.items():
            died, _ = _pooled({key: cell}, scores, 1, threads, keep, messages)
            if died:
                keep(_died(key, cell))


def _pooled(
    todo: dict[str, Cell],
    scores: Path,
    workers: int,
    threads: int,
    keep: Callable[[Record], None],
    messages: Any,
) -> tuple[dict[str, Cell], dict[str, Cell]]:
    """Compute cells in a pool until a worker dies: what was under way then, and what was not."""
    context = multiprocessing.get_context("spawn")
    others = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(
        workers, context, initializer=_begin, initargs=(threads, place(), messages)
    )
    waiting, flying, dead = list(todo), dict[Future[Record], str](), list[str]()
    grace = BRIEF
    try:
        while (waiting or flying) and not dead:
            while waiting and len(flying) < workers and not dead:
                key = waiting.pop(0)
                try:
                    flying[pool.submit(_work, key, todo[key], scores)] = key
                except BrokenProcessPool:
                    dead.append(key)
            for future in wait(flying, return_when=FIRST_COMPLETED).done:
                key = flying.pop(future)
                record = _outcome(future, key, todo[key])
                if record is None:
                    dead.append(key)
                else:
                    keep(record)
        grace = BRIEF if dead else GRACE
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        _end(set(multiprocessing.active_children()) - others, grace)
    suspects = [*dead, *flying.values()] if dead else []
    return {key: todo[key] for key in suspects}, {key: todo[key] for key in waiting}


def _outcome(future: Future[Record], key: str, cell: Cell) -> Record | None:
    """The record that a worker sent, or one that says why it sent another thing; None: it died."""
    try:
        return future.result()
    except BrokenProcessPool:
        return None
    except Exception as error:
        return failed(key, cell, explained(error, cell))


def _end(workers: set[multiprocessing.process.BaseProcess], grace: float) -> None:
    """Wait for workers that have nothing to do; threads that plugins started may hold them up."""
    for worker in workers:
        worker.join(grace)
        if worker.is_alive():
            worker.kill()
            worker.join()


def _died(key: str, cell: Cell) -> Record:
    error = (
        "the worker process died without a message (killed, out of memory, os._exit, or a crash "
        f"in compiled code) while it computed {plugin_of(cell)}"
    )
    return failed(key, cell, error)


_messages: Any = None


def end_with_parent() -> None:
    """Let this process end as soon as the one that started it is gone, however it went."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _begin(threads: int, where: Place, messages: Any) -> None:
    import torch

    global _messages
    _messages = messages
    end_with_parent()
    keep_freed_memory()
    # What a warning quotes may hold codes that steer the terminal.
    warnings.showwarning = escape.show_warning
    torch.set_num_threads(threads)
    compute_on(where)
    # The table is on the standard output, and nothing that a plugin prints.
    with contextlib.suppress(OSError):
        os.dup2(2, 1)


def _work(key: str, cell: Cell, scores: Path) -> Record:
    name = title(cell)

    def progress(done: int, total: int, text: str) -> None:
        _messages.put((name, int(done), int(total), str(text)[:LONGEST_STAGE]))

    try:
        return cells_module.compute(cell, key, progress, scores)
    except Exception as error:
        return failed(key, cell, explained(error, cell))


def _listen(messages: Any, display: Display) -> None:
    while True:
        try:
            message = messages.get(timeout=1)
        except queue.Empty:
            continue
        except (EOFError, OSError):
            return
        if message is None:
            return
        display.stage(*message)
