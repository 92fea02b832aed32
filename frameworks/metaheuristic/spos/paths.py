"""The paths of a super net over bits: what can be chosen, what it costs, and how it is drawn."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import cached_property

import numpy as np

from frameworks.core.evolution.genetic import Genes
from frameworks.core.policy import LayerBits, Policy
from frameworks.core.problem import Problem
from frameworks.core.space import Space
from frameworks.core.supernets.decisions import block_decisions, cheapest_picks, decided
from frameworks.metaheuristic.spos.sampling import Sampler

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

    Raises:
        ValueError: there are no pairs, or none that the hardware supports for some choice.

    Attributes:
        decisions: the choices that have several candidates or one.
        costs: what each candidate of each choice costs, as `frameworks.core.budget.Budget.price`.
        rest: what all other layers cost.
    """

    def __init__(self, problem: Problem, pairs: Sequence[Sequence[int]], layerwise: bool) -> None:
        self.problem, space = problem, problem.space
        if not (pairs := pairs or upward_pairs(space)):
            raise ValueError(
                "no candidate pair has as few weight bits as activation bits: give `pairs`"
            )
        self.decisions = block_decisions(problem, pairs, layerwise)
        self.counts = [len(decision.options) for decision in self.decisions]
        self.costs = [np.array(decision.costs) for decision in self.decisions]
        first = problem.budget.price(problem.cost(self.policy((0,) * len(self.counts))))
        self.rest = first - sum(float(costs[0]) for costs in self.costs)

    @cached_property
    def cheapest(self) -> Genes:
        """The candidate of each choice that costs least.

        With several limits that need not be within all of them: then a path that is, if there is.
        """
        return cheapest_picks(self.problem, self.decisions)

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

    def sampler(self, bins: int) -> Sampler:
        """Draws paths to train: of all alike (no bins), or of bins of cost about the budget."""
        limit = self.problem.budget.limit
        low, high = ((1 + share) * limit - self.rest for share in (-SPREAD, SPREAD))
        return Sampler(self.costs, low, high, bins)

    def missing(self, drawn: Collection[Genes]) -> dict[str, list[str]]:
        """Candidates that no drawn path has, though one within the budget might.

        By the first layer of their choice, as "weight activation" bits.
        """
        least, found = self.rest + sum(float(c.min()) for c in self.costs), dict[str, list[str]]()
        for i, (decision, costs) in enumerate(zip(self.decisions, self.costs, strict=True)):
            had = {genes[i] for genes in drawn}
            for option, cost in enumerate(costs.tolist()):
                fits = least - float(costs.min()) + cost <= self.problem.budget.limit
                if option not in had and fits:
                    name, bits = next(iter(decision.options[option].items()))
                    found.setdefault(name, []).append(f"{bits.weight} {bits.act}")
        return found
