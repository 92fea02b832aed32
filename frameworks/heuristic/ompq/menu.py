"""What OMPQ's programme chooses from: weight bits, beside activation bits that are given."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise

from frameworks.core.problem import Problem
from frameworks.core.solvers.limits import InfeasibleBudget

Menu = dict[str, dict[int, tuple[int, Mapping[str, float]]]]
"""By layer and weight bits: the activation bits beside them, and the cost."""


def menu_of(problem: Problem, act: int) -> Menu:
    """What each layer may take, with the activation bits nearest to ``act`` (paired: the same)."""
    acts, paired = problem.space.act_bits, problem.space.paired
    found: Menu = {}
    for name, entries in problem.layer_entries().items():
        beside = nearest(acts[name], act)
        found[name] = {w: (a, c) for (w, a), c in entries.items() if paired or a == beside}
        if not found[name]:
            raise InfeasibleBudget(f"{name}: the hardware runs no weights at {beside}-bit inputs")
    return found


def ranges(menu: Menu, borders: Sequence[int]) -> list[Menu]:
    """A menu between each two neighbours of ``borders``, the highest first.

    Of each layer a border is the most bits at or below it that the layer may take, or its fewest.
    A range in which no layer has a choice is left out.
    """
    found = [_between(menu, low, high) for low, high in pairwise(borders)]
    return [part for part in found[::-1] if any(len(options) > 1 for options in part.values())]


def _between(menu: Menu, low: int, high: int) -> Menu:
    return {
        name: {
            w: option
            for w, option in options.items()
            if _border(options, low) <= w <= _border(options, high)
        }
        for name, options in menu.items()
    }


def _border(widths: Collection[int], wish: int) -> int:
    return max((w for w in widths if w <= wish), default=min(widths))


def nearest(candidates: Sequence[int], wish: int) -> int:
    """The candidate nearest to the wish, the lower of two."""
    return min(candidates, key=lambda bits: (abs(bits - wish), bits))


def ties_of(problem: Problem, functions: Sequence[Sequence[str]]) -> list[list[str]]:
    """The layers of each function in groups of those that may take the same bits."""
    entries = problem.layer_entries()
    found: dict[tuple[str, tuple[tuple[int, int], ...]], list[str]] = {}
    for names in functions:
        for name in names:
            found.setdefault((names[0], tuple(entries[name])), []).append(name)
    return list(found.values())
