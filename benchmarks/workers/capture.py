"""What a process writes to its standard streams, from C as from Python, led elsewhere."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import io
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

OUT, ERR = 1, 2
LONGEST = 2**20
"""Bytes that are kept of what is printed, half of them from its end."""


def flush() -> None:
    """Let everything be written that Python or the C library holds back."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):  # a plugin may have put anything in their place
            stream.flush()
    with contextlib.suppress(OSError):
        ctypes.CDLL(None).fflush(None)


@contextlib.contextmanager
def led_into(handle: int) -> Iterator[tuple[int, int]]:
    """Within the context, both standard streams lead into an open file.

    Yields:
        Descriptors of where they led before.
    """
    flush()
    before = os.dup(OUT), os.dup(ERR)
    try:
        os.dup2(handle, OUT)
        os.dup2(handle, ERR)
        yield before
    finally:
        flush()
        os.dup2(before[0], OUT)
        os.dup2(before[1], ERR)
        for kept in before:
            os.close(kept)


@contextlib.contextmanager
def printed_to(path: Path) -> Iterator[None]:
    """Within the context, what is printed goes to the end of a file; where that cannot be, on."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
    except OSError:
        yield
        return
    try:
        with led_into(handle):
            yield
    finally:
        os.close(handle)


class Held:
    """Within the context, what is printed is held back, and can be `read`.

    Attributes:
        stream: writes to where the standard error led before.
    """

    stream: TextIO

    def __enter__(self) -> Held:
        self._file = tempfile.TemporaryFile(buffering=0)
        handle = self._file.fileno()
        # Whatever is read, each process writes at the end.
        fcntl.fcntl(handle, fcntl.F_SETFL, fcntl.fcntl(handle, fcntl.F_GETFL) | os.O_APPEND)
        self._led = led_into(handle)
        before = self._led.__enter__()
        self.stream = _stream(before[1])
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError, ValueError):
            self.stream.flush()
        self._led.__exit__(None, None, None)

    def read(self) -> str:
        """What was printed since the last time."""
        flush()
        self._file.seek(0)
        text = text_of(self._file.read())
        self._file.truncate(0)
        return text


def _stream(handle: int) -> TextIO:
    """A stream to a descriptor; or Python's own, where that leads elsewhere (within tests, say)."""
    try:
        if sys.stderr.fileno() != ERR:
            return sys.stderr
    except (OSError, ValueError, AttributeError, io.UnsupportedOperation):
        return sys.stderr
    own = os.dup(handle)
    return open(own, "w", buffering=1, encoding="utf-8", errors="backslashreplace")


def text_of(printed: bytes) -> str:
    """Printed bytes as text, without the middle where there are too many."""
    if len(printed) > LONGEST:
        half, left_out = LONGEST // 2, len(printed) - LONGEST
        middle = f"\n... ({left_out} bytes left out) ...\n".encode()
        printed = printed[:half] + middle + printed[-half:]
    return printed.decode(errors="replace")
