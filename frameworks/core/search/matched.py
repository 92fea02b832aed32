"""Menus of layers whose weights and activations have the same bits, as far as they can be had."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from frameworks.core.policy import Pair

Menu = Mapping[str, Mapping[Pair, Mapping[str, float]]]
"""What each layer may take, and its cost."""


def matched(costs: Menu, groups: Sequence[Sequence[str]]) -> Menu:
    """Of each layer's pairs one for each number of weight bits: that with the same activation bits.

    Where it lacks that pair: the one with the nearest, the more of two. Tied layers are matched
    among the pairs that all of them have.
    """
    tied = {name: group for group in groups for name in group}
    found: dict[str, dict[Pair, Mapping[str, float]]] = {}
    for name, options in costs.items():
        shared = [p for p in options if all(p in costs[n] for n in tied.get(name, ()))]
        nearest: dict[int, int] = {}
        for weight, act in sorted(shared, key=lambda p: (abs(p[0] - p[1]), -p[1])):
            nearest.setdefault(weight, act)
        found[name] = {pair: options[pair] for pair in sorted(nearest.items())}
    return found
