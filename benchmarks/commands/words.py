"""What the command says to people."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Iterable, Iterator
from difflib import get_close_matches

from benchmarks.records import escape


def say(message: str) -> None:
    """Lines for people, on the standard error; what is in them cannot steer the terminal."""
    print(escape.lines(message), file=sys.stderr)


@contextlib.contextmanager
def heard() -> Iterator[None]:
    """Within the context, it is no fault that nobody reads what is printed any more.

    A pipe may have been closed, and a terminal may be gone: the rest is printed nowhere.
    """
    try:
        yield
        sys.stdout.flush()
    except OSError as error:
        if error.errno not in (errno.EPIPE, errno.EIO):
            raise
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in (sys.stdout, sys.stderr):
            os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def row(text: str) -> None:
    """One line of a listing, on the standard output."""
    print(escape.lines(text.replace("\n", " ")))


def meant(name: str, choices: Iterable[str]) -> str:
    """`` (did you mean X?)`` for the choice nearest to a name, or nothing."""
    near = get_close_matches(name, list(choices), 1)
    return f" (did you mean {near[0]}?)" if near else ""
