"""What the command says to people."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from difflib import get_close_matches

from benchmarks.records import escape


def say(message: str) -> None:
    """Lines for people, on the standard error; what is in them cannot steer the terminal."""
    print(escape.lines(message), file=sys.stderr)


def row(text: str) -> None:
    """One line of a listing, on the standard output."""
    print(escape.lines(text.replace("\n", " ")))


def meant(name: str, choices: Iterable[str]) -> str:
    """`` (did you mean X?)`` for the choice nearest to a name, or nothing."""
    near = get_close_matches(name, list(choices), 1)
    return f" (did you mean {near[0]}?)" if near else ""
