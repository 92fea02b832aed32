"""Uniform bits: the baseline that every search has to beat.

The best uniform policy within the budget: every free layer at the same weight bits and the same
activation bits, both among the space's candidates. ``paired`` keeps the two equal (the plain
WbAb of most papers); otherwise all mixed W/A pairs compete.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import ClassVar

from frameworks.core.card import Card
from frameworks.core.framework import Framework
from frameworks.core.policy import Policy
from frameworks.core.problem import Problem
from frameworks.core.registry import register
from frameworks.core.solution import Solution

NONE_FITS = "no uniform policy fits the budget; the cheapest policy stands in its place"


@register
@dataclass
class Uniform(Framework):
    """The most accurate uniform policy within the budget, by search-validation accuracy.

    Attributes:
        paired: only equal weight and activation bits.
    """

    name: ClassVar[str] = "uniform"
    card: ClassVar[Card] = Card(
        title="Uniform precision",
        year=2016,
        category="baseline",
        quantizer="mse",
        quantization=("deterministic rounding",),
        granularity="layer",
        searches=("weight", "act"),
        needs=frozenset({"calibration", "valid"}),
    )

    paired: bool = False

    def candidates(self, problem: Problem) -> list[Policy]:
        """The distinct uniform policies within the budget that no other one dominates.

        None where no uniform policy fits, as on hardware on which a mixture is the cheapest.
        """
        weights = sorted({b for bits in problem.space.weight_bits.values() for b in bits})
        acts = sorted({b for bits in problem.space.act_bits.values() for b in bits})
        # Pinned activations stay as they are in a pair of equal bits.
        equal = [(b, b) for b in sorted({*weights, *acts})]
        pairs = equal if self.paired else list(product(weights, acts))
        fitting: dict[Policy, tuple[int, int]] = {}
        for w, a in pairs:
            policy = problem.space.nearest(problem.space.reference(w, a))
            if problem.within(policy):
                fitting.setdefault(policy, (w, a))
        return [
            policy
            for policy, (w, a) in fitting.items()
            if not any(v >= w and b >= a and (v, b) != (w, a) for v, b in fitting.values())
        ]

    def search(self, problem: Problem) -> Solution:
        uniform = self.candidates(problem)
        candidates = uniform or [problem.cheapest()]
        best: tuple[float, float, Policy] | None = None
        for done, policy in enumerate(candidates):
            problem.progress(done, len(candidates), "uniform policies")
            score = problem.contend(policy, best and best[0])
            if score is None:
                continue
            rank = (score.accuracy, -score.loss)
            if best is None or rank > best[:2]:
                best = (*rank, policy)
                problem.checkpoint(policy, score.accuracy)
        assert best is not None
        return Solution(best[2], notes={} if uniform else {"remark": NONE_FITS})
