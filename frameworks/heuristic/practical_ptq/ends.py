"""Where a walk of falling accuracy ends: three searches with the same answer (arXiv 2302.05397)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

Accuracy = Callable[[int], float]
"""Of a position of the walk."""


def longest(how: str, count: int, accuracy: Accuracy, target: float) -> int:
    """The last position with at least an accuracy, if it falls along the walk.

    Args:
        how: one of `SEARCHES`.
        count: of positions, at least 1.
        accuracy: is asked more than once of a position.
        target: the accuracy.

    Returns:
        The position, such that the next one (if any) has less; -1 if already the first has less.
    """
    if accuracy(0) < target:
        return -1
    if accuracy(count - 1) >= target:
        return count - 1
    return SEARCHES[how](0, count - 1, accuracy, target)


def every(low: int, high: int, accuracy: Accuracy, target: float) -> int:
    """One position after the other, up to the first that has less."""
    while accuracy(low + 1) >= target:
        low += 1
    return low


def binary(low: int, high: int, accuracy: Accuracy, target: float) -> int:
    """Halves what lies between a position that has the accuracy and one that has less."""
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if accuracy(middle) >= target else (low, middle)
    return low


def interpolation(low: int, high: int, accuracy: Accuracy, target: float) -> int:
    """As `binary`, parted where a line between the two accuracies meets the target."""
    while high - low > 1:
        above, below = accuracy(low), accuracy(high)
        middle = low + round((above - target) / (above - below) * (high - low))
        middle = min(max(middle, low + 1), high - 1)
        low, high = (middle, high) if accuracy(middle) >= target else (low, middle)
    return low


SEARCHES: Mapping[str, Callable[[int, int, Accuracy, float], int]] = {
    "binary": binary,
    "interpolation": interpolation,
    "every": every,
}
"""By name; the first position has the accuracy, the last one has not."""
