"""Phase 2's walk (arXiv 2302.05397): groups are flipped to cheaper candidates along one list."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from frameworks.core.policy import Pair

Prices = Sequence[Mapping[Pair, float]]
"""What each group costs at each of its candidates, the highest one first."""


class Flip(NamedTuple):
    """One entry of the list: a group by its number, a candidate, and its SQNR in dB."""

    group: int
    pair: Pair
    sqnr: float


def listed(rated: Sequence[Mapping[Pair, float]], prices: Prices) -> list[Flip]:
    """Every group at every candidate below its highest, in descending order of the SQNR.

    Of equal ones that with more bits comes first, then the one that saves more, then the earlier
    group's.
    """
    highest = [next(iter(price.values())) for price in prices]
    flips = [Flip(g, pair, ratio) for g, row in enumerate(rated) for pair, ratio in row.items()]
    return sorted(
        flips,
        key=lambda f: (-f.sqnr, -sum(f.pair), prices[f.group][f.pair] - highest[f.group], f.group),
    )


def walked(flips: Sequence[Flip], prices: Prices) -> Iterator[Flip]:
    """The flips of a list that lower the cost of their groups, which start at the highest."""
    now = [next(iter(price.values())) for price in prices]
    for flip in flips:
        price = prices[flip.group][flip.pair]
        if price < now[flip.group]:
            now[flip.group] = price
            yield flip
