"""What is under way in a run: the cells, their stages, and the time left.

Nothing depends on that it can be shown.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TextIO

from benchmarks.progress.times import Left, Running, Times, duration
from benchmarks.records import escape

BEFORE = ("starting", "loading", "waiting", "pretraining")
"""How stages begin that come before a search."""


@dataclass
class Under:
    """A cell under way."""

    number: int
    title: str
    cell: Mapping[str, Any]
    stage: str = "starting"
    done: int = 0
    total: int = 1
    since: float = 0.0
    first: int = 0
    searching: float | None = None

    @property
    def text(self) -> str:
        """The stage, and how far it is."""
        return f"{self.stage} {self.done}/{self.total}" if self.total > 1 else self.stage

    def reached(self, stage: str, done: int, total: int, now: float) -> None:
        """It has come to a point of a stage."""
        if (_words(stage), total) != (_words(self.stage), self.total) or done < self.done:
            self.since, self.first = now, done
        self.stage, self.done, self.total = stage, done, total
        if self.searching is None and not stage.startswith(BEFORE):
            self.searching = now

    def running(self, now: float) -> Running:
        """For the time left."""
        steps = self.done - self.first
        rest = (now - self.since) / steps * (self.total - self.done) if steps > 0 else None
        if self.searching is None:
            return Running(self.cell, 0.0, rest, searches=False)
        return Running(self.cell, now - self.searching, rest)


def _words(stage: str) -> str:
    """A stage without the figures, which change from step to step."""
    return "".join(letter for letter in stage if not letter.isdigit())


class Board:
    """Keeps count, and shows nothing; `benchmarks.progress.show` has those that do.

    Attributes:
        stream: where it is shown.
        printed: gives what the process has printed elsewhere since it was asked last.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.times = Times()
        self.total = self.done = self.workers = 0
        self.under: dict[str, Under] = {}
        self._waiting: dict[str, Mapping[str, Any]] = {}
        self._started = time.monotonic()
        self._warned: set[str] = set()
        self.printed: Callable[[], str] = lambda: ""
        self._lock = threading.RLock()
        self._fails = False

    # --- what a run tells it ---------------------------------------------------------------

    def begin(self, cells: Mapping[str, Mapping[str, Any]], workers: int) -> None:
        """So many cells are to be computed, in addition to those before."""
        with self._lock:
            self._waiting.update(cells)
            self.total += len(cells)
            self.workers = workers
        self._show(self._began)

    def start(self, key: str, title: str) -> None:
        """A cell is given to a worker."""
        with self._lock:
            cell = self._waiting.pop(key, None)
            again = self.under.get(key)
            if cell is not None:
                number = self.done + len(self.under) + 1
                self.under[key] = Under(number, title, cell, since=time.monotonic())
            elif again is not None:  # its worker died
                self.under[key] = Under(again.number, title, again.cell, since=time.monotonic())

    def stage(self, key: str, done: int, total: int, text: str) -> None:
        """A cell under way reports how far it is."""
        with self._lock:
            under = self.under.get(key)
            if under is not None:
                under.reached(text, done, total, time.monotonic())
        if under is not None:
            self._show(self._moved, under)

    def finished(self, key: str, title: str, ended: str, seconds: float | None) -> None:
        """A cell has ended.

        Args:
            key: the cell's.
            title: names it.
            ended: says how.
            seconds: what others of its kind will take; None: that says nothing of them.
        """
        with self._lock:
            ours = self.under.pop(key, None)
            cell = ours.cell if ours else self._waiting.pop(key, None)
            self.done += 1
            if cell is not None and seconds is not None:
                self.times.learn(cell, seconds, here=True)
            line = f"[{self.done}/{self.total}] {title}: {ended}, {self.left()}"
        self._show(self._line, line)

    def warn(self, message: Warning | str, *_: Any, **__: Any) -> None:
        """Stands for ``warnings.showwarning``: one line, and each only once."""
        text = f"juxtabit: warning: {message}"
        with self._lock:
            known = text in self._warned
            self._warned.add(text)
        if not known:
            self._show(self._line, text)

    def learn(self, known: Callable[[], Sequence[tuple[Mapping[str, Any], float]]]) -> None:
        """Read in the background what cells of each kind took."""

        def read() -> None:
            for cell, seconds in known():
                with self._lock:
                    self.times.learn(cell, seconds, here=False)

        threading.Thread(target=read, daemon=True).start()

    def close(self) -> None:
        """Nothing more will be shown."""

    # What is drawn by another thread asks for the lock while it holds that of the terminal, so
    # that nothing may be written while this one is held.

    # --- what is shown ---------------------------------------------------------------------

    def left(self) -> str:
        """The time left in words."""
        spent = time.monotonic() - self._started
        if self.total and self.done == self.total:
            return f"all in {duration(spent)}"
        return str(self.time_left())

    def time_left(self) -> Left:
        """The time until all cells are done."""
        with self._lock:
            now = time.monotonic()
            running = [one.running(now) for one in self.under.values()]
            return self.times.left(list(self._waiting.values()), running, self.workers)

    def rows(self) -> list[str]:
        """A line for each cell under way: which, what it does, and its name."""
        with self._lock:
            return [
                escape.line(f"cell {one.number} of {self.total}: {one.text} · {one.title}")
                for one in self.under.values()
            ]

    def _show(self, shows: Callable[..., None], *what: Any) -> None:
        """Show something; where that fails (the terminal is gone, say) nothing more is shown.

        A run goes on without.
        """
        if self._fails:
            return
        try:
            shows(*what)
        except Exception:
            self._fails = True
            with contextlib.suppress(Exception):
                self.close()

    def _line(self, text: str) -> None:
        """A line that stays."""

    def _began(self) -> None:
        """More cells are there."""

    def _moved(self, under: Under) -> None:
        """A cell is further than before."""
