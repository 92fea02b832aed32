"""The same function on many arguments, in this process or in several, with results as they come."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from typing import Any, TypeVar

import torch

from benchmarks.fingerprints.numerics import Place, compute_on, place
from benchmarks.workers import stopping
from benchmarks.workers.memory import keep_freed_memory

T = TypeVar("T")


def computed(
    function: Callable[..., T],
    tasks: Sequence[tuple[Any, ...]],
    *,
    workers: int = 1,
    threads: int = 1,
) -> Iterator[tuple[int, T]]:
    """What a function gives for each of some arguments, as it comes; whatever ends this ends all.

    Args:
        function: of a module, so that other processes find it.
        tasks: its arguments; they are begun in this order.
        workers: processes, which compute where this one does; with one it is done here.
        threads: torch threads of each.

    Yields:
        the number of a task, and its result.
    """
    if workers == 1 or not tasks:
        _begin(threads, place())
        for number, arguments in enumerate(tasks):
            yield number, function(*arguments)
        return
    others = set(multiprocessing.active_children())
    with stopping.starting():
        pool = ProcessPoolExecutor(
            min(workers, len(tasks)),
            multiprocessing.get_context("spawn"),
            _begin_worker,
            (threads, place()),
        )
        numbers: dict[Future[T], int] = {
            pool.submit(function, *arguments): number for number, arguments in enumerate(tasks)
        }
    try:
        for future in as_completed(numbers):
            yield numbers[future], future.result()
    except BaseException:
        stopping.end_children(others)
        raise
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _begin_worker(threads: int, where: Place) -> None:
    stopping.subordinate()
    keep_freed_memory()
    _begin(threads, where)


def _begin(threads: int, where: Place) -> None:
    torch.set_num_threads(threads)
    compute_on(where)
