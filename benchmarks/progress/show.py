"""Where progress is shown: as lines of a file, or at the foot of a terminal."""

from __future__ import annotations

import contextlib
import os
import sys
import time
import warnings
from collections.abc import Iterator
from functools import partial
from typing import TextIO

from rich.console import Console, ConsoleDimensions, ConsoleOptions, RenderResult
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from benchmarks.progress.board import Board, Under
from benchmarks.records import escape
from benchmarks.workers import stopping
from benchmarks.workers.capture import Held

QUIET_SECONDS = 60
"""In a file, what is under way is said after this long without a line."""
PER_SECOND = 4
"""How often a terminal's lines are drawn."""
PLAIN = ("dumb", "unknown")
"""Terminals that cannot move their cursor."""
RESTORED = "\r\x1b[J\x1b[?25h"
"""Clears what is below the cursor's line, and shows the cursor."""


_active: Board | None = None


@contextlib.contextmanager
def showing() -> Iterator[Board]:
    """Within the context, progress is shown, and what is printed is not: from the very start.

    What no run's log has taken by the end is said then.
    """
    global _active
    stop = stopping.current()
    with Held() as held:
        stop.leave, stop.stream = partial(restore, held.stream), held.stream
        board = _active = board_for(held.stream)
        board.printed = held.read
        before, warnings.showwarning = warnings.showwarning, board.warn
        try:
            yield board
        finally:
            _active, warnings.showwarning = None, before
            stop.leave, stop.stream = lambda: None, None
            with contextlib.suppress(OSError, ValueError):  # the terminal may be gone
                board.close()
                if rest := escape.lines(held.read()):
                    print(rest, file=held.stream)


@contextlib.contextmanager
def joined() -> Iterator[Board]:
    """The board that is shown; outside `showing` one of the context, on the standard error."""
    if _active is not None:
        yield _active
        return
    board = board_for(sys.stderr)
    try:
        yield board
    finally:
        with contextlib.suppress(OSError, ValueError):
            board.close()


def restore(stream: TextIO) -> None:
    """Bring a terminal back to what it was, from whatever state and without waiting for it."""
    with contextlib.suppress(OSError, ValueError):
        if stream.isatty():
            os.write(stream.fileno(), RESTORED.encode())


def board_for(stream: TextIO) -> Board:
    """The board that suits a stream; one that shows nothing where that cannot be used."""
    try:
        terminal = stream.isatty() and os.environ.get("TERM", "dumb") not in PLAIN
        return Foot(stream) if terminal else Lines(stream)
    except (OSError, ValueError):
        return Board(stream)


class Lines(Board):
    """One line for each finished cell, and at most one a minute beside."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._last = time.monotonic()

    def _line(self, text: str) -> None:
        print(escape.line(text), file=self.stream, flush=True)
        self._last = time.monotonic()

    def _began(self) -> None:
        self._line(f"{self.total} cells to compute, {self.workers} at a time")

    def _moved(self, under: Under) -> None:
        if time.monotonic() - self._last > QUIET_SECONDS:
            self._line(f"... cell {under.number} of {self.total}: {under.text} · {under.title}")


class _Sized(Console):
    """A console as wide as its own stream: the process's may lead elsewhere."""

    @property
    def size(self) -> ConsoleDimensions:
        with contextlib.suppress(OSError, ValueError, AttributeError):
            columns, lines = os.get_terminal_size(self.file.fileno())
            if columns > 0 and lines > 0:
                return ConsoleDimensions(columns, lines)
        return ConsoleDimensions(80, 25)

    @size.setter
    def size(self, _: tuple[int, int]) -> None:
        """It is the stream's, whatever rich takes it to be."""


class Foot(Board):
    """At the foot of a terminal: the whole, the time left, and the cells under way."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._spinner = Spinner("line", text="starting")
        self._console = _Sized(
            file=stream, force_terminal=True, highlight=False, markup=False, emoji=False
        )
        self._live = Live(
            self,
            console=self._console,
            refresh_per_second=PER_SECOND,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._live.start(refresh=True)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if not self.total:
            yield self._spinner
            return
        whole = Table.grid(padding=(0, 1), expand=True)
        whole.add_column(no_wrap=True)
        whole.add_column(ratio=1)
        whole.add_column(no_wrap=True)
        bar = ProgressBar(total=self.total, completed=self.done)
        whole.add_row(f"{self.done} of {self.total} cells", bar, self.left())
        yield whole
        rows = self.rows()
        # The rest of the terminal's height, with a line to spare.
        fits = max(1, console.size.height - 3)
        for row in rows[:fits]:
            yield Text(row, no_wrap=True, overflow="ellipsis")
        if len(rows) > fits:
            yield Text(f"and {len(rows) - fits} more", no_wrap=True, overflow="ellipsis")

    def _line(self, text: str) -> None:
        self._console.print(Text(escape.line(text)))

    def close(self) -> None:
        self._live.stop()
