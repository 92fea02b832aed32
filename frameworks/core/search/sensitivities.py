"""A per-layer sensitivity of one's own, solved for a budget by any of the solvers.

A method of this kind says how much each layer loses at each of its bits, and the policy follows:

    minimise    sum_layers  weight[layer][w_layer] + act[layer][a_layer]
    subject to  the budget, tied layers, and what the hardware supports
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from frameworks.core.framework import ScoringFramework
from frameworks.core.policy import Pair, Policy
from frameworks.core.problem import Problem
from frameworks.core.solution import Scores, Solution
from frameworks.core.solvers.milp import multiple_choice
from frameworks.core.solvers.pareto import Frontier

Losses = Mapping[str, Mapping[int, float]]
"""What each layer loses at each bit width."""
Table = Mapping[str, Mapping[Pair, float]]
"""What each layer loses at each pair of weight and activation bits that it may take."""


@dataclass(frozen=True)
class Sensitivity:
    """What layers lose, in any unit that adds up over layers (less is better).

    Attributes:
        weight: by layer and weight bits, for layers whose weight bits are searched.
        act: by layer and activation bits, for layers whose activation bits are searched.
    """

    weight: Losses
    act: Losses

    def table(self, problem: Problem) -> dict[str, dict[Pair, float]]:
        """The loss of every pair of bits that a layer may take; what is pinned loses nothing.

        Raises:
            ValueError: a searched layer or bit width is missing, or a loss is not finite.
        """
        space = problem.space
        for kind, losses, bits in (
            ("weight", self.weight, space.weight_bits),
            ("act", self.act, space.act_bits),
        ):
            for name, wanted in bits.items():
                for b in wanted if len(wanted) > 1 else ():
                    value = losses.get(name, {}).get(b)
                    if value is None or not math.isfinite(value):
                        raise ValueError(
                            f"sensitivity: {kind}[{name!r}][{b}] is {value}: give a finite number "
                            f"for each of the {kind} bits {list(wanted)}"
                        )
        return {
            name: {
                (w, a): self.weight.get(name, {}).get(w, 0.0) + self.act.get(name, {}).get(a, 0.0)
                for w, a in pairs
            }
            for name, pairs in problem.layer_entries().items()
        }


def exact(problem: Problem, table: Table) -> Policy:
    """The policy of least loss within all limits (an integer programme, solved to the optimum)."""
    entries = {
        name: {pair: (table[name][pair], costs) for pair, costs in options.items()}
        for name, options in problem.layer_entries().items()
    }
    return Policy(multiple_choice(entries, problem.budget.limits, ties=problem.space.groups))


def frontier(problem: Problem, table: Table) -> Policy:
    """The point of the Pareto front of loss and cost at the budget (one metric).

    Raises:
        ValueError: the budget limits several metrics.
    """
    if problem.budget.others:
        raise ValueError(
            f"solver frontier knows one cost; the budget limits {list(problem.budget.limits)}: "
            "choose exact or greedy"
        )
    entries = {
        name: {pair: (table[name][pair], cost) for pair, cost in options.items()}
        for name, options in problem.layer_costs().items()
    }
    front: Frontier[Pair] = Frontier(entries, ties=problem.space.groups)
    return Policy(front.within(problem.budget.limit).options)


def greedy(problem: Problem, table: Table) -> Policy:
    """From the most bits, lower the decision that loses least for the cost it saves, until it fits.

    The cost is that of the limits that are still exceeded. Where no step saves anything, loss alone
    decides; where fewer bits never fit, the cheapest policy is taken.
    """
    space, budget = problem.space, problem.budget
    values = [choice.bits[-1] for choice in space.choices]

    def loss(policy: Policy) -> float:
        return math.fsum(table[n].get((b.weight, b.act), math.inf) for n, b in policy.items())  # type: ignore[arg-type]

    while not problem.within(policy := space.decode(values)):
        over, before = budget.exceeded(problem.cost(policy)), loss(policy)
        price = budget.price(problem.cost(policy), over)
        steps: list[tuple[bool, float, int, int]] = []
        for i, choice in enumerate(space.choices):
            below = max((b for b in choice.bits if b < values[i]), default=None)
            if below is None:
                continue
            lowered = space.decode([*values[:i], below, *values[i + 1 :]])
            saved = price - budget.price(problem.cost(lowered), over)
            harm = loss(lowered) - before
            steps.append((saved <= 0, harm / saved if saved > 0 else harm, i, below))
        if not steps:
            return problem.cheapest()
        _, _, i, below = min(steps)
        values[i] = below
    return policy


Solver = Callable[[Problem, Table], Policy]
SOLVERS: Mapping[str, Solver] = {"exact": exact, "frontier": frontier, "greedy": greedy}


def assign(problem: Problem, sensitivity: Sensitivity, solver: str = "exact") -> Policy:
    """The policy that a sensitivity leads to within the problem's budget.

    Args:
        problem: its target's cost must be a sum over layers.
        sensitivity: what layers lose.
        solver: one of `SOLVERS`.

    Raises:
        ValueError: there is no such solver, or the sensitivity lacks a searched bit width.
        InfeasibleBudget: no policy is within the budget.
    """
    if solver not in SOLVERS:
        raise ValueError(f"solver: {solver!r}; choose from {list(SOLVERS)}")
    return SOLVERS[solver](problem, sensitivity.table(problem))


class SensitivityFramework(ScoringFramework):
    """A framework of which only the sensitivity is its own; ``solver`` is a hyper-parameter.

    A subclass is a dataclass with the card, ``needs`` including ``separable_cost``, and a method
    `sensitivity`. It is scored once and solved for every budget.
    """

    solver: str = "exact"

    @abstractmethod
    def sensitivity(self, problem: Problem) -> Sensitivity:
        """What each layer loses at each of its bits; it must not look at ``problem.budget``."""

    def validate(self) -> None:
        super().validate()
        if self.solver not in SOLVERS:
            raise ValueError(f"solver = {self.solver!r}: choose from {list(SOLVERS)}")

    def score(self, problem: Problem) -> Scores:
        found = self.sensitivity(problem)
        found.table(problem)  # so that what is missing is said before anything is kept
        return Scores({"weight": _plain(found.weight), "act": _plain(found.act)})

    def losses(self, problem: Problem, scores: Scores) -> Table:
        return self._kept(scores).table(problem)

    @staticmethod
    def _kept(scores: Scores) -> Sensitivity:
        return Sensitivity(_read(scores.values["weight"]), _read(scores.values["act"]))

    def solve(self, problem: Problem, scores: Scores) -> Solution:
        kept = self._kept(scores)
        policy = assign(problem, kept, self.solver)
        problem.checkpoint(policy)
        table = kept.table(problem)
        loss = math.fsum(table[n][b.weight, b.act] for n, b in policy.items())  # type: ignore[index]
        return Solution(policy, notes={"loss": loss})


def _plain(losses: Losses) -> dict[str, dict[str, float]]:
    return {name: {str(b): float(v) for b, v in row.items()} for name, row in losses.items()}


def _read(losses: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[int, float]]:
    return {name: {int(b): float(v) for b, v in row.items()} for name, row in losses.items()}
