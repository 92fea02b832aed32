"""Exhaustive search: every policy within the budget is evaluated, where the space is small."""

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


@register
@dataclass
class Exhaustive(Framework):
    """The most accurate policy within the budget, by search-validation accuracy without training.

    What no search can beat on its own objective: the truth to hold other methods against. Of
    equally accurate policies the one of least loss wins, then the first in the space's order.

    Attributes:
        limit: spaces with more policies than this are skipped.
    """

    name: ClassVar[str] = "exhaustive"
    card: ClassVar[Card] = Card(
        title="Exhaustive search",
        year=2016,
        category="baseline",
        quantizer="mse",
        quantization=("deterministic rounding",),
        granularity="layer",
        searches=("weight", "act"),
        needs=frozenset({"calibration", "valid"}),
        deviations=("no paper of its own; the reference for small spaces",),
    )

    limit: int = 4096

    def skip(self, problem: Problem) -> str | None:
        size = problem.space.size
        if size > self.limit:
            return f"the space has {size:.3g} policies, more than exhaustive.limit = {self.limit}"
        return super().skip(problem)

    def search(self, problem: Problem) -> Solution:
        every = product(*(choice.bits for choice in problem.space.choices))
        policies = [p for p in map(problem.space.decode, every) if problem.within(p)]
        best: tuple[float, float, Policy] | None = None
        for done, policy in enumerate(policies):
            problem.progress(done, len(policies), "all policies")
            score = problem.contend(policy, best and best[0])
            if score is None:
                continue
            rank = (score.accuracy, -score.loss)
            if best is None or rank > best[:2]:
                best = (*rank, policy)
                problem.checkpoint(policy, score.accuracy)
        found = problem.space.lowest() if best is None else best[2]
        return Solution(found, notes={"policies_within_budget": len(policies)})
