"""One line of progress, for commands that do one thing."""

from __future__ import annotations

import re
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from benchmarks.records import escape

EVERY = 30.0
"""Seconds between two lines of one stage in a file."""


NUMBER = re.compile(r"\d[\d.e+-]*")


class Line:
    """Where a command is: on a terminal the next text takes the place of the last one.

    In a file a new stage is said at once, and how far it is every half minute.

    Args:
        stream: stderr by default.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = stream or sys.stderr
        self._terminal = self.stream.isatty()
        self._stage: str | None = None
        self._said = 0.0

    def __call__(self, done: int, total: int, text: str) -> None:
        """Say that ``done`` of ``total`` parts of a stage are done; its text may have numbers."""
        self.say(NUMBER.sub("", text), f"{text} {done}/{total}" if total > 1 else text)

    def say(self, stage: str, text: str) -> None:
        """Say a text of a stage."""
        shown, now = escape.line(text), time.monotonic()
        if self._terminal:
            # The last column stays free: some terminals wrap as soon as it is written.
            width = max(shutil.get_terminal_size((80, 24)).columns - 1, 10)
            self.stream.write(f"\r\x1b[K{shown[:width]}")
        elif stage != self._stage or now - self._said >= EVERY:
            self.stream.write(f"... {shown}\n")
            self._said = now
        self._stage = stage
        self.stream.flush()

    def close(self) -> None:
        """Leave the line."""
        if self._terminal and self._stage is not None:
            self.stream.write("\r\x1b[K")
            self.stream.flush()


@contextmanager
def started(stream: TextIO | None = None) -> Iterator[Line]:
    """A line of progress that says so at once, before what takes seconds to import."""
    with line(stream) as shown:
        shown(0, 1, "starting")
        yield shown


@contextmanager
def line(stream: TextIO | None = None) -> Iterator[Line]:
    """A line of progress, which is gone afterwards."""
    shown = Line(stream)
    try:
        yield shown
    finally:
        shown.close()
