"""Greedy descent: lower the least harmful decision until the policy fits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from frameworks.core.card import Card
from frameworks.core.framework import Framework
from frameworks.core.policy import Policy
from frameworks.core.problem import Problem
from frameworks.core.registry import register
from frameworks.core.solution import Solution


@register
@dataclass
class Greedy(Framework):
    """From the highest bits, lower one decision a round: the one that harms least per cost saved.

    The harm of a step is the rise of the search-validation loss; each round evaluates the next
    lower candidate of every decision in the context of the policy so far, so that a round costs
    one evaluation a decision. Rounds take the best ``steps`` moves at once when ``steps`` > 1.

    Attributes:
        steps: moves taken from each round's ranking; 1 is the plain greedy algorithm.
        evaluations: at most this many policies are evaluated; from then on the last ranking is
            used. 0 means no limit.
    """

    name: ClassVar[str] = "greedy"
    card: ClassVar[Card] = Card(
        title="Greedy layer-wise bit reduction",
        year=2015,
        category="baseline",
        quantizer="mse",
        granularity="layer",
        searches=("weight", "act"),
        needs=frozenset({"calibration", "valid"}),
    )

    steps: int = 1
    evaluations: int = 0

    def search(self, problem: Problem) -> Solution:
        space, metric = problem.space, problem.budget.metric
        values = [choice.bits[-1] for choice in space.choices]
        start = problem.cost(space.decode(values))[metric]
        harm = [0.0] * len(values)
        while not problem.within(policy := space.decode(values)):
            cost = problem.cost(policy)[metric]
            done = start - cost
            problem.progress(int(1000 * done / (start - problem.budget.limit)), 1000, "greedy")
            lowered = {
                i: [*values[:i], max(b for b in c.bits if b < values[i]), *values[i + 1 :]]
                for i, c in enumerate(space.choices)
                if values[i] > c.bits[0]
            }
            saved = {
                i: cost - problem.cost(space.decode(trial))[metric] for i, trial in lowered.items()
            }
            lowered = {i: trial for i, trial in lowered.items() if saved[i] > 0}
            if not lowered:
                break
            if self._may_evaluate(problem, len(lowered)):
                loss = problem.evaluate(policy).loss
                for i, trial in lowered.items():
                    harm[i] = problem.evaluate(space.decode(trial)).loss - loss
            ranking = sorted(lowered, key=lambda i: harm[i] / saved[i])
            for i in ranking[: self.steps]:
                values[i] = lowered[i][i]
        best = self._filled(problem, values)
        problem.checkpoint(best)
        return Solution(best)

    def _may_evaluate(self, problem: Problem, count: int) -> bool:
        return not self.evaluations or problem.meter.policies + count < self.evaluations

    @staticmethod
    def _filled(problem: Problem, values: list[int]) -> Policy:
        """Raise decisions again where the last step left room (it may have overshot)."""
        for i, choice in enumerate(problem.space.choices):
            for bits in (b for b in choice.bits if b > values[i]):
                raised = [*values[:i], bits, *values[i + 1 :]]
                if problem.within(problem.space.decode(raised)):
                    values = raised
        return problem.space.decode(values)
