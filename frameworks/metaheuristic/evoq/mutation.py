"""EvoQ's mutation: bits go from where they do not matter to where they do.

With the sensitivity S_i of each decision (the bits of a layer's weights, or of its inputs),

    p_up(i)   = S_i / sum_j S_j              over decisions below their most bits,
    p_down(i) = (1 / S_i) / sum_j (1 / S_j)  over decisions above their fewest bits:

one decision is raised by a step, and others are lowered by a step each until the policy is within
the budget again, so that it costs no more than its parent might. What a policy leaves of the budget
is used up by raises alone, before it is mutated at all. Small layers may be lowered in vain before
a large one pays for all: steps that the budget does not need are taken back.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from frameworks.core.policy import Policy
from frameworks.core.problem import Problem

LEAST = 1e-6
"""A sensitivity is taken as at least this share of the largest, so that all have some chance."""


class Mutation:
    """Makes policies within a problem's budget from others.

    Args:
        problem: the space, the target and the budget.
        sensitivities: S of each of the space's decisions.
        rng: draws.

    Attributes:
        up, down: chances of decisions to be raised, and to be lowered, up to a factor.
    """

    def __init__(
        self, problem: Problem, sensitivities: Sequence[float], rng: np.random.Generator
    ) -> None:
        self.problem, self.rng = problem, rng
        self._answers: dict[tuple[int, ...], bool] = {}
        finite = np.nan_to_num(np.asarray(sensitivities, float))
        largest = finite.max(initial=0.0)
        self.up: NDArray[Any] = np.maximum(finite / largest, LEAST) if largest else finite + 1
        self.down: NDArray[Any] = 1 / self.up

    def __call__(self, policy: Policy) -> Policy:
        """A policy with one decision raised, and as many lowered as the budget asks for.

        Where all that is left is to take it back, the parent comes again.
        """
        space = self.problem.space
        values: list[int] = list(space.encode(policy))
        higher = [i for i, c in enumerate(space.choices) if values[i] < c.bits[-1]]
        raised = self.drawn(self.up, higher) if higher else -1
        if higher:
            values[raised] = min(b for b in space.choices[raised].bits if b > values[raised])
        steps: list[tuple[int, int]] = []
        while not self._fits(values):
            lower = [i for i, c in enumerate(space.choices) if values[i] > c.bits[0]]
            if not lower:
                return self.problem.cheapest()
            i = self.drawn(self.down, [i for i in lower if i != raised] or lower)
            steps.append((i, values[i]))
            values[i] = max(b for b in space.choices[i].bits if b < values[i])
        return space.decode(self._needed(values, steps))

    def filled(self, policy: Policy) -> Policy:
        """The policy with decisions raised by a step each, by chance, until nothing more fits."""
        space = self.problem.space
        values: list[int] = list(space.encode(policy))
        while fit := self._raises(values):
            values = fit[self.drawn(self.up, list(fit))]
        return space.decode(values)

    def _raises(self, values: list[int]) -> dict[int, list[int]]:
        """The values with one of them a step up, by its position, where that fits."""
        found = {}
        for i, choice in enumerate(self.problem.space.choices):
            for bits in [b for b in choice.bits if b > values[i]][:1]:
                found[i] = [*values[:i], bits, *values[i + 1 :]]
        return {i: raised for i, raised in found.items() if self._fits(raised)}

    def _needed(self, values: list[int], steps: Sequence[tuple[int, int]]) -> list[int]:
        """The values without the steps down, in the order of the draws, that they can do without.

        Args:
            values: within the budget.
            steps: decisions that were lowered, and from which bits.
        """
        for i, bits in steps:
            trial = [*values[:i], max(bits, values[i]), *values[i + 1 :]]
            values = trial if self._fits(trial) else values
        return values

    def _fits(self, values: Sequence[int]) -> bool:
        """Within the budget; mutants of a population come again and again."""
        key = tuple(values)
        if key not in self._answers:
            self._answers[key] = self.problem.within(self.problem.space.decode(values))
        return self._answers[key]

    def drawn(self, weights: NDArray[Any], among: Sequence[int]) -> int:
        """One of some decisions, by chances in proportion to weights."""
        chances = weights[list(among)]
        return int(self.rng.choice(among, p=chances / chances.sum()))
