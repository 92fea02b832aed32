"""Random search: the best of N random policies within the budget."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from frameworks.core.card import Card
from frameworks.core.framework import Framework
from frameworks.core.policy import Policy
from frameworks.core.problem import Problem
from frameworks.core.registry import register
from frameworks.core.solution import Solution


@register
@dataclass
class Random(Framework):
    """The most accurate of ``evaluations`` random policies, by search-validation accuracy.

    A draw over budget is repaired, not thrown away: free decisions are lowered one step at a time
    in random order until it fits, and then raised in random order while it still fits, so that
    every evaluation goes to a policy that uses its budget (a rejection sampler would hardly ever
    hit a tight budget, and would be too weak a baseline).

    Attributes:
        evaluations: how many policies are evaluated.
    """

    name: ClassVar[str] = "random"
    card: ClassVar[Card] = Card(
        title="Random search (Bergstra and Bengio, 2012)",
        year=2012,
        category="baseline",
        quantizer="mse",
        granularity="layer",
        searches=("weight", "act"),
        needs=frozenset({"calibration", "valid"}),
    )

    evaluations: int = 100

    def __post_init__(self) -> None:
        if self.evaluations < 1:
            raise ValueError(f"evaluations = {self.evaluations}: at least one policy is needed")

    def draw(self, problem: Problem, rng: np.random.Generator) -> Policy:
        """One random policy that fits the budget and to which no single step can be added."""
        choices = problem.space.choices
        values = drawn = [int(rng.choice(choice.bits)) for choice in choices]
        while not problem.within(problem.space.decode(values)):
            lowerable = [i for i, c in enumerate(choices) if values[i] > c.bits[0]]
            if not lowerable:
                break
            i = int(rng.choice(lowerable))
            lower = max(b for b in choices[i].bits if b < values[i])
            values = [*values[:i], lower, *values[i + 1 :]]
        if not problem.within(problem.space.decode(values)):
            values = self._cheaper(problem, drawn, rng)
        for i in rng.permutation(len(choices)):
            for bits in (b for b in choices[i].bits if b > values[i]):
                raised = [*values[:i], bits, *values[i + 1 :]]
                if not problem.within(problem.space.decode(raised)):
                    break
                values = raised
        return problem.space.decode(values)

    def _cheaper(self, problem: Problem, values: list[int], rng: np.random.Generator) -> list[int]:
        """The draw with as many decisions as needed those of the cheapest policy.

        For targets where fewer bits can cost more.
        """
        cheapest = problem.space.encode(problem.cheapest())
        for i in rng.permutation(len(values)):
            if problem.within(problem.space.decode(values)):
                break
            values = [*values[:i], cheapest[i], *values[i + 1 :]]
        return values

    def search(self, problem: Problem) -> Solution:
        rng = problem.rng("random")
        best: tuple[float, float, Policy] | None = None
        for done in range(self.evaluations):
            problem.progress(done, self.evaluations, "random policies")
            policy = self.draw(problem, rng)
            score = problem.contend(policy, best and best[0])
            if score is None:
                continue
            rank = (score.accuracy, -score.loss)
            if best is None or rank > best[:2]:
                best = (*rank, policy)
                problem.checkpoint(policy, score.accuracy)
        assert best is not None
        return Solution(best[2])
