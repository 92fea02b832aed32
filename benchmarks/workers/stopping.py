"""Ctrl-C and SIGTERM: the command stops at once, says what is kept, and leaves no process behind.

The first signal raises `Stopped` in the main thread, so that files are put away on the way out.
What has not ended by then within `GRACE`, a second signal, and one that comes while a module is
imported (half of which is no state to go on from, and which may swallow the exception) end the
process there and then.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from types import FrameType
from typing import Any, TextIO

import psutil

GRACE = 1.5
"""Seconds that the way out may take."""
SIGNALS = (signal.SIGINT, signal.SIGTERM)
AGAIN = "stopped; run the same command again to go on"
NOTHING = "stopped; nothing is kept"


class Stopped(KeyboardInterrupt):
    """A signal asked the process to stop."""


class Stop:
    """Within the context, the process stops when it is told to.

    Attributes:
        number: the signal that came; None before.
        kept: says what is kept and how to go on, in a line or two; nothing, until a command says.
        leave: brings the terminal back to what it was, from whatever state.
        stream: where it is said; by default the standard error.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self.kept: Callable[[], str] = lambda: NOTHING
        self.leave: Callable[[], None] = lambda: None
        self.stream: TextIO | None = None
        self._said = False
        self._waits = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Stop:
        global _current
        self._outer, _current = _current, self
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                # One that is ignored, by nohup or in the background of a script, stays so.
                if signal.getsignal(number) != signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._came)
        return self

    def __exit__(self, *_: object) -> None:
        global _current
        _current = self._outer
        for number, before in self._before.items():
            signal.signal(number, before or signal.SIG_DFL)

    @property
    def code(self) -> int:
        """The exit code, as shells give it: 130 after Ctrl-C, 143 after SIGTERM."""
        return 128 + (self.number or signal.SIGINT)

    def say(self) -> None:
        """Say what is kept, once."""
        if not self._said:
            self._said = True
            with contextlib.suppress(Exception):
                print(f"juxtabit: {self.kept()}", file=self.stream or sys.stderr, flush=True)

    def finish(self) -> int:
        """Say what is kept; after a signal the process ends here, else the exit code is given.

        What else is done when an interpreter ends takes seconds, and is of no use to anybody then.
        """
        if self.number is not None:
            self._end()
        self.say()
        return self.code

    def _came(self, number: int, frame: FrameType | None) -> None:
        again, self.number = self.number is not None, self.number or number
        if again or _imports(frame):
            self._end()
        threading.Thread(target=self._end_late, daemon=True).start()
        if not self._waits:
            raise Stopped

    def _end_late(self) -> None:
        time.sleep(GRACE)
        self._end()

    def _end(self) -> None:
        """End the process and all that it has started, from whatever state it is in."""
        end(_descendants())
        self.leave()
        self.say()
        os._exit(self.code)

    @contextlib.contextmanager
    def waits(self) -> Iterator[None]:
        """Within the context, the exception of a signal waits for its end."""
        self._waits += 1
        try:
            yield
        finally:
            self._waits -= 1
        if self.number is not None and not self._waits:
            raise Stopped


_current: Stop | None = None


def current() -> Stop:
    """What the process does when it is told to stop; one that does nothing outside a `Stop`."""
    return _current or Stop()


@contextlib.contextmanager
def starting() -> Iterator[None]:
    """Within the context, processes may be started: they are all known, and ignore Ctrl-C.

    A Ctrl-C reaches every process of the terminal, and this one ends the others. What is blocked
    stays so in a process that is started meanwhile; see `listens`.
    """
    with current().waits():
        before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def beyond_terminal() -> Iterator[None]:
    """Within the context, the process and those that it starts outlive their terminal.

    A long run goes on when the connection to its machine is lost; SIGTERM ends it.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before or signal.SIG_DFL)


def listens() -> None:
    """Let a process from within `starting` be ended by SIGTERM, as pools end theirs."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])


def end_with_parent() -> None:
    """Let this process end as soon as the one that started it is gone, however it went."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def subordinate() -> None:
    """What a process does first that another one has started and will end."""
    listens()
    end_with_parent()


def end_children(others: Iterable[multiprocessing.process.BaseProcess] = ()) -> None:
    """End the processes that this one has started, but for some, and those of their own."""
    left_alone = set(others)
    mine = [child for child in multiprocessing.active_children() if child not in left_alone]
    found: list[psutil.Process] = []
    for child in mine:
        with contextlib.suppress(psutil.Error):
            root = psutil.Process(child.pid)
            found += [root, *root.children(recursive=True)]
    end(found)
    for child in mine:
        child.join(GRACE)


def end(processes: Iterable[psutil.Process]) -> None:
    """Kill processes, all at once."""
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.kill()


def _descendants() -> list[psutil.Process]:
    """All processes below this one, but that which puts its semaphores away when it is gone."""
    tracker = getattr(
        sys.modules.get("multiprocessing.resource_tracker"), "_resource_tracker", None
    )
    kept = getattr(tracker, "_pid", None)
    with contextlib.suppress(psutil.Error):
        return [p for p in psutil.Process().children(recursive=True) if p.pid != kept]
    return []


def _imports(frame: FrameType | None) -> bool:
    """Whether a module is being imported."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False
