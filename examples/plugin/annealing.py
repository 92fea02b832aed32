"""Simulated annealing (Kirkpatrick, Gelatt, Vecchi, Science 220, 1983) over the bits of a network.

A state is a policy within the budget. A neighbour has one decision changed and is brought back to
the budget: decisions drawn at random are lowered until it fits, then raised while it still does. A
neighbour that is better is taken, and one that is worse by d with the probability exp(-d / T)
(their criterion, with the loss of accuracy in points as energy); T falls geometrically from
``start`` to ``end`` over the evaluations.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from frameworks import Card, Framework, Policy, Problem, Solution, register


@register
@dataclass
class Annealing(Framework):
    """Walks from policy to policy, downhill less and less as it cools.

    Attributes:
        evaluations: distinct policies that are evaluated.
        start: temperature at the beginning, in points of accuracy.
        end: temperature at the end.
    """

    name: ClassVar[str] = "annealing"
    card: ClassVar[Card] = Card(
        title="Optimization by Simulated Annealing",
        venue="Science 220 (1983)",
        year=1983,
        category="metaheuristic",
        quantizer="mse",
        granularity="layer",
        searches=("weight", "act"),
        needs=frozenset({"calibration", "valid"}),
        deviations=("the paper is of circuits and tours: moves and repair are this example's",),
    )

    evaluations: int = 100
    start: float = 2.0
    end: float = 0.05

    def validate(self) -> None:
        super().validate()
        if not 0 < self.end <= self.start:
            raise ValueError(f"end = {self.end}: give a temperature above 0, up to start")

    def search(self, problem: Problem) -> Solution:
        rng = problem.rng(self.name)
        now = self.repaired(problem, problem.cheapest(), rng)
        here = problem.evaluate(now).accuracy
        best, most, seen = now, here, {now}
        for _ in range(20 * self.evaluations):  # a small space may have no more policies to see
            if len(seen) >= self.evaluations:
                break
            problem.progress(len(seen), self.evaluations, "policies")
            policy = self.repaired(problem, self.moved(problem, now, rng), rng)
            accuracy = problem.evaluate(policy).accuracy
            share = len(seen) / self.evaluations
            temperature = self.start * (self.end / self.start) ** share
            if accuracy >= here or rng.random() < math.exp((accuracy - here) / temperature):
                now, here = policy, accuracy
            if accuracy > most:
                best, most = policy, accuracy
            seen.add(policy)
            problem.checkpoint(best, most)
        problem.checkpoint(best, most)
        return Solution(best, notes={"accuracy": most})

    @staticmethod
    def moved(problem: Problem, policy: Policy, rng: np.random.Generator) -> Policy:
        """The policy with one decision at other bits."""
        values, choices = list(problem.space.encode(policy)), problem.space.choices
        i = int(rng.integers(len(choices)))
        values[i] = int(rng.choice([bits for bits in choices[i].bits if bits != values[i]]))
        return problem.space.decode(values)

    @staticmethod
    def repaired(problem: Problem, policy: Policy, rng: np.random.Generator) -> Policy:
        """The policy with decisions lowered until it fits, and then raised while it fits."""
        space = problem.space
        values = list(space.encode(policy))
        for i in map(int, rng.permutation(len(values))):
            if problem.within(space.decode(values)):
                break
            values[i] = space.choices[i].bits[0]
        if not problem.within(space.decode(values)):  # fewer bits need not cost less
            return problem.cheapest()
        for i in map(int, rng.permutation(len(values))):
            for bits in space.choices[i].bits:
                tried = [*values[:i], bits, *values[i + 1 :]]
                if bits > values[i] and problem.within(space.decode(tried)):
                    values = tried
        return space.decode(values)
