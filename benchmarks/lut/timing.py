"""The timing of one layer within one process."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

LEAST = 10
"""Repetitions at least, however slow a layer is."""


@dataclass(frozen=True)
class Prepared:
    """A layer ready to run.

    Attributes:
        sample: runs it once (or a few times) and returns the seconds of one run.
        operators: what the runtime really runs, for the record.
    """

    sample: Callable[[], float]
    operators: tuple[str, ...] = ()


class Unsupported(Exception):
    """The device has no kernel for a layer in this class; the text says why."""


def clocked(run: Callable[[], object]) -> Callable[[], float]:
    """A sample by the wall clock."""

    def sample() -> float:
        start = time.perf_counter_ns()
        run()
        return (time.perf_counter_ns() - start) / 1e9

    return sample


def median_of(sample: Callable[[], float], seconds: float) -> float:
    """The median of repetitions over some seconds, after a warm-up of a quarter of that time."""
    _repeat(sample, seconds / 4)
    collecting = gc.isenabled()
    gc.disable()
    try:
        return statistics.median(_repeat(sample, seconds))
    finally:
        if collecting:
            gc.enable()


def _repeat(sample: Callable[[], float], seconds: float) -> list[float]:
    samples: list[float] = []
    end = time.monotonic() + seconds
    while len(samples) < LEAST or time.monotonic() < end:
        samples.append(sample())
    return samples
