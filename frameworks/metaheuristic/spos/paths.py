"""The paths of a super net over bits: what can be chosen, what it costs, and how it is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from frameworks.core.evolution.genetic import Genes
from frameworks.core.policy import LayerBits, Policy
from frameworks.core.problem import Problem
from frameworks.core.space import Space
from frameworks.core.supernets.decisions import block_decisions, decided

TRIES = 500
"""Paths drawn for one of a cost, before the last of them is moved there."""
SPREAD = 0.1
"""The bins of costs reach from this share below the budget to as much above it."""


def upward_pairs(space: Space) -> list[tuple[int, int]]:
    """All (weight, activation) pairs of the space's bits with no more weight bits than others.

    Of weights of 1 to 4 bits and activations of 2 and 4 these are the paper's six. Where only one
    kind is searched, the other stays at its pinned bits.
    """
    kinds = {choice.kind for choice in space.choices}
    both = kinds == {"weight", "act"}
    bits: dict[str, list[int]] = {}
    for kind in ("weight", "act"):
        free = {b for c in space.choices if c.kind == kind or not both for b in c.bits}
        bits[kind] = sorted(free)
    if not both:
        return [(b, b) for b in bits["weight"]]
    return [(w, a) for w in bits["weight"] for a in bits["act"] if w <= a]


class Paths:
    """The choices of a problem, one of several pairs of bits for each block (or layer).

    Args:
        problem: its cost must be a sum over layers.
        pairs: candidate (weight, activation) bits; those of `upward_pairs` if there are none.
        layerwise: every layer is a choice of its own, and not every block.

    Attributes:
        decisions: the choices that have several candidates or one.
        costs: what each candidate of each choice costs, as `frameworks.core.budget.Budget.price`.
        rest: what all other layers cost.
    """

    def __init__(self, problem: Problem, pairs: Sequence[Sequence[int]], layerwise: bool) -> None:
        self.problem, space = problem, problem.space
        asked = problem
        if layerwise:
            apart = tuple(replace(layer, block=layer.name) for layer in space.layers)
            asked = problem.at(space=replace(space, layers=apart))
        self.decisions = block_decisions(asked, pairs or upward_pairs(space))
        self.counts = [len(decision.options) for decision in self.decisions]
        self.costs = [np.array(decision.costs) for decision in self.decisions]
        first = problem.budget.price(problem.cost(self.policy((0,) * len(self.counts))))
        self.rest = first - sum(float(costs[0]) for costs in self.costs)

    @property
    def cheapest(self) -> Genes:
        """The candidate of each choice that costs least."""
        return tuple(int(costs.argmin()) for costs in self.costs)

    @property
    def candidates(self) -> dict[str, list[LayerBits]]:
        """The bits that each layer may take on a path."""
        found = {name: [bits] for name, bits in self.problem.space.lowest().items()}
        for decision in self.decisions:
            for name in decision.options[0]:
                found[name] = [option[name] for option in decision.options]
        return found

    def policy(self, genes: Genes) -> Policy:
        """The policy of a path."""
        return decided(self.problem.space, self.decisions, genes)

    def fits(self, genes: Genes) -> bool:
        """Whether a path is within the budget."""
        return self.problem.within(self.policy(genes))

    def price(self, genes: NDArray[np.int64]) -> NDArray[np.float64]:
        """What paths ``[n, choices]`` cost ``[n]``."""
        found = np.full(len(genes), self.rest)
        for column, costs in zip(genes.T, self.costs, strict=True):
            found += costs[column]
        return found

    def cheaper(self, genes: Genes, rng: np.random.Generator) -> Genes:
        """The path with random choices at random cheaper candidates, as many as it takes to fit."""
        found = list(genes)
        while not self.fits(tuple(found)):
            lower = [np.flatnonzero(c < c[g]) for c, g in zip(self.costs, found, strict=True)]
            left = [i for i, options in enumerate(lower) if len(options)]
            if not left:
                break
            i = int(rng.choice(left))
            found[i] = int(rng.choice(lower[i]))
        return tuple(found)

    def draw(self, rng: np.random.Generator, bins: int) -> Genes:
        """A path to train: drawn uniformly (no bins), or uniformly among those of a bin of costs.

        The bin is drawn uniformly from equal ones about the budget. Where `TRIES` paths miss it,
        the last one is moved there, by redrawing choices as long as that brings it nearer.
        """
        if not bins:
            return tuple(rng.integers(0, self.counts).tolist())
        limit = self.problem.budget.limit
        edges = limit * np.linspace(1 - SPREAD, 1 + SPREAD, bins + 1)
        i = int(rng.integers(bins))
        drawn = rng.integers(0, self.counts, (TRIES, len(self.counts)))
        price = self.price(drawn)
        hits = np.flatnonzero((price >= edges[i]) & (price <= edges[i + 1]))
        if len(hits):
            return tuple(drawn[hits[0]].tolist())
        return self._moved(drawn[-1], edges[i], edges[i + 1], rng)

    def _moved(
        self, genes: NDArray[np.int64], low: float, high: float, rng: np.random.Generator
    ) -> Genes:
        price = float(self.price(genes[None])[0])
        for _ in range(TRIES):
            off = max(low - price, price - high)
            if off <= 0:
                break
            i = int(rng.integers(len(genes)))
            option = int(rng.integers(self.counts[i]))
            moved = price + float(self.costs[i][option] - self.costs[i][genes[i]])
            if max(low - moved, moved - high) < off:
                genes[i], price = option, moved
        return tuple(genes.tolist())
