"""Values of options, read from their texts; what is none is refused with what is expected."""

from __future__ import annotations

import argparse


def positive(text: str) -> int:
    """A whole number of at least 1."""
    return _whole(text, 1, None)


def port(text: str) -> int:
    """The number of a port; 0 for any free one."""
    return _whole(text, 0, 2**16 - 1)


def bits(text: str) -> list[int]:
    """Bit widths, by commas."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and 1 <= int(part) <= 8 for part in parts):
        raise argparse.ArgumentTypeError(f"{text!a}: give bits within 1 to 8, such as 2,3,4,8")
    return [int(part) for part in parts]


def points(text: str) -> float:
    """Points of a percentage."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 100:
        raise argparse.ArgumentTypeError(f"{text!a}: give points, from 0 to 100")
    return value


def names(text: str) -> list[str]:
    """Names or patterns, by commas."""
    return [part.strip() for part in text.split(",") if part.strip()]


def _whole(text: str, least: int, most: int | None) -> int:
    try:
        value = int(text)
    except ValueError:
        value = least - 1
    if value < least or (most is not None and value > most):
        wanted = f"of at least {least}" if most is None else f"from {least} to {most}"
        raise argparse.ArgumentTypeError(f"{text!a}: give a whole number {wanted}")
    return value
