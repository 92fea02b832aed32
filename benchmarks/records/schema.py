"""Checks of plain data, put together from small ones: what a value must be, at every depth.

A check takes a value and raises `Misfit`, which knows where in the data the fault is. Numbers are
those of physical quantities: finite, and neither larger nor (but for zero) smaller than any.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from typing import Any

Check = Callable[[Any], None]

LARGEST, SMALLEST = 1e30, 1e-30
"""No cost, count or time of a network lies beyond these; arithmetic within them cannot overflow."""
DEEPEST = 40
"""Levels of lists and objects within each other; a record has about seven."""
_SHOWN = 60


class Misfit(ValueError):
    """A value is not what it must be."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason, self.place = reason, ""

    def within(self, key: str | int) -> Misfit:
        """The same fault, seen from one level further out."""
        step = (
            f"[{key}]" if isinstance(key, int) else f".{key if key.isprintable() else ascii(key)}"
        )
        self.place = step + self.place
        return self

    def __str__(self) -> str:
        return f"{self.place.lstrip('.')} {self.reason}".strip()


def shown(value: Any) -> str:
    """A value in a message: its beginning, or what it is where it is large."""
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    if isinstance(value, int) and not abs(value) < LARGEST:
        return "a huge number"
    text = ascii(value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."


def number(low: float = -LARGEST, high: float = LARGEST) -> Check:
    """A number (no truth value) within a range."""

    def check(value: Any) -> None:
        kind = type(value)
        if (kind is float or kind is int) and low <= value <= high:
            if value == 0 or abs(value) >= SMALLEST:
                return
        elif kind is not float and kind is not int:
            raise Misfit(f"is {shown(value)}, not a number")
        raise Misfit(f"is {shown(value)}, not a number within {low:g}..{high:g}")

    return check


def whole(low: int, high: int) -> Check:
    """An integer within a range."""

    def check(value: Any) -> None:
        if type(value) is not int or not low <= value <= high:
            raise Misfit(f"is {shown(value)}, not an integer within {low}..{high}")

    return check


def truth(value: Any) -> None:
    """True or false."""
    if value is not True and value is not False:
        raise Misfit(f"is {shown(value)}, neither true nor false")


def text(value: Any) -> None:
    """Any text that can be written down again."""
    if type(value) is not str:
        raise Misfit(f"is {shown(value)}, not text")
    if not value.isascii() and any("\ud800" <= c <= "\udfff" for c in value):
        raise Misfit(f"is {shown(value)}: half a surrogate pair is no text")


def name(value: Any) -> None:
    """Text that names something: not empty, and no NUL in it."""
    text(value)
    if not value or "\0" in value:
        raise Misfit(f"is {shown(value)}: a name is not empty and has no NUL")


def choice(values: Collection[Any], fault: str) -> Check:
    """One of a few values, of the same type; ``fault`` is what others are."""
    kinds = {type(value) for value in values}

    def check(value: Any) -> None:
        if type(value) not in kinds or value not in values:
            raise Misfit(f"is {shown(value)}, {fault}")

    return check


def optional(of: Check) -> Check:
    """What is checked, or null."""

    def check(value: Any) -> None:
        if value is not None:
            of(value)

    return check


def either(kind: type, this: Check, that: Check) -> Check:
    """One check for values of a type, another for all others."""

    def check(value: Any) -> None:
        (this if type(value) is kind else that)(value)

    return check


def listed(of: Check, least: int = 0) -> Check:
    """A list of at least so many."""

    def check(value: Any) -> None:
        if type(value) is not list:
            raise Misfit(f"is {shown(value)}, not a list")
        if len(value) < least:
            raise Misfit("is an empty list")
        for index, entry in enumerate(value):
            try:
                of(entry)
            except Misfit as fault:
                raise fault.within(index) from None

    return check


def mapped(of: Check) -> Check:
    """An object whose keys are names, and whose values all are of one kind."""
    return shaped({}, of)


def shaped(entries: Mapping[str, Check], others: Check | None = None) -> Check:
    """An object: the checks of the entries that it may have, and of all others (None: no others).

    No entry must be there; see `complete`.
    """

    def check(value: Any) -> None:
        if type(value) is not dict:
            raise Misfit(f"is {shown(value)}, not an object")
        for key, entry in value.items():
            of = entries.get(key, others)
            if of is None:
                raise Misfit(f"has the unknown entry {shown(key)}")
            try:
                if key not in entries:
                    name(key)
                of(entry)
            except Misfit as fault:
                raise fault.within(key) from None

    return check


def complete(entries: Mapping[str, Check], others: Check | None = None) -> Check:
    """As `shaped`, with all of the entries."""
    inner = shaped(entries, others)

    def check(value: Any) -> None:
        inner(value)
        if missing := entries.keys() - value.keys():
            raise Misfit(f"lacks {', '.join(sorted(missing))}")

    return check


def plain(value: Any) -> None:
    """Any data that JSON holds and that is not nested without end."""
    _plain(value, DEEPEST)


def _plain(value: Any, depth: int) -> None:
    kind = type(value)
    if kind is str:
        text(value)
    elif kind is float or kind is int:
        if not (math.isfinite(value) if kind is float else abs(value) < LARGEST):
            raise Misfit(f"is {shown(value)}, which no record can hold")
    elif kind is dict or kind is list:
        if depth == 0:
            raise Misfit("is nested too deeply")
        pairs = value.items() if kind is dict else enumerate(value)
        for key, entry in pairs:
            try:
                if kind is dict:
                    text(key)
                _plain(entry, depth - 1)
            except Misfit as fault:
                raise fault.within(key) from None
    elif value is not None and kind is not bool:
        raise Misfit(f"is a {kind.__name__}, which no record can hold")
