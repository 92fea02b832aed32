"""Progress of a run: one line for each finished cell and, on a terminal, what is under way."""

from __future__ import annotations

import sys
import time
from typing import TextIO

from benchmarks.records import escape
from benchmarks.records.record import Record
from benchmarks.suite.budgets import label_of
from benchmarks.suite.config import Cell

QUIET_SECONDS = 30
"""Where the stream is no terminal, what is under way is shown after this long without a line."""


def title(cell: Cell) -> str:
    """Short name of a cell."""
    framework = cell["framework"].get("label") or cell["framework"]["name"]
    return (
        f"{framework} {cell['model']['name']} {cell['dataset']['name']} "
        f"{cell['hardware']['name']} {label_of(cell)} {cell['protocol']['name']} "
        f"seed={cell['seed']}"
    )


def duration(seconds: float) -> str:
    """``45 s``, ``12 min`` or ``3 h 20 min``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


class Display:
    """Writes progress to a stream (stderr by default, so that stdout holds only results)."""

    def __init__(self, total: int, workers: int, stream: TextIO | None = None) -> None:
        self.total, self.workers = total, workers
        self.stream = stream or sys.stderr
        self.done = 0
        self._started = time.monotonic()
        self._last = self._started
        self._stages: dict[str, str] = {}
        self._width = 0

    def stage(self, cell: str, done: int, total: int, text: str) -> None:
        """A cell under way reports how far it is."""
        self._stages[cell] = f"{cell}: {text} {done}/{total}" if total > 1 else f"{cell}: {text}"
        line = escape.line(" | ".join(self._stages.values()))[:150]
        if self.stream.isatty():
            self._rewrite(line)
        elif time.monotonic() - self._last > QUIET_SECONDS:
            print(f"... {line}", file=self.stream, flush=True)
            self._last = time.monotonic()

    def finished(self, record: Record) -> None:
        """A cell has ended."""
        self.done += 1
        self._last = time.monotonic()
        name = title(record.cell)
        self._stages.pop(name, None)
        self._rewrite("")
        ended = f"[{self.done}/{self.total}] {name}: {_outcome(record)}, {self._left()}"
        print(escape.line(ended), file=self.stream, flush=True)

    def _left(self) -> str:
        spent = time.monotonic() - self._started
        if self.done == self.total:
            return f"all in {duration(spent)}"
        return f"{duration(spent / self.done * (self.total - self.done))} left"

    def _rewrite(self, line: str) -> None:
        if self.stream.isatty():
            self.stream.write("\r" + line.ljust(self._width) + ("\r" if not line else ""))
            self._width = len(line)
            self.stream.flush()


def _outcome(record: Record) -> str:
    seconds = duration(record.timings.get("total", 0.0))
    if record.status == "failed":
        reason = (record.error or "").strip().splitlines()
        return f"FAILED in {seconds} ({reason[-1] if reason else 'no message'})"
    if record.status == "skipped":
        return f"skipped ({record.reason})"
    over = "" if record.budget["within"] else " OVER BUDGET"
    return f"{record.accuracy['final']:.2f} %{over} in {seconds}"
