"""BMPQ's integer programme, and the candidates that it chooses from.

maximise    sum_l  ENBG_l q_l    subject to    sum_l cost_l(q_l) <= the budget
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from frameworks.core.policy import Policy
from frameworks.core.problem import Problem
from frameworks.core.search.matched import Menu, matched
from frameworks.core.solvers.limits import InfeasibleBudget
from frameworks.core.solvers.milp import multiple_choice

UNUSED = 0.1
"""Candidates whose most bits leave more than this share of the budget unused are too few."""


def searched(problem: Problem) -> list[str]:
    """The layers whose weight bits are free, in execution order."""
    return [name for name, bits in problem.space.weight_bits.items() if len(bits) > 1]


def most(menu: Menu) -> Policy:
    """Every layer at its most bits."""
    return Policy({name: max(options) for name, options in menu.items()})


def assign(problem: Problem, menu: Menu, sensitivity: Mapping[str, float]) -> Policy:
    """The bits of the largest sum of sensitivity times weight bits within the budget.

    Args:
        problem: its budget and tied layers.
        menu: what each layer may take.
        sensitivity: ENBG by layer; a layer without has none.

    Raises:
        InfeasibleBudget: no bits are within the budget.
    """
    table = {
        name: {
            pair: (-sensitivity.get(name, 0.0) * pair[0], cost) for pair, cost in options.items()
        }
        for name, options in menu.items()
    }
    return Policy(multiple_choice(table, problem.budget.limits, ties=problem.space.groups))


def menu_of(problem: Problem, bits: Collection[int]) -> Menu:
    """What each layer may take: of some bits, if these can use the budget, else of all there are.

    Raises:
        InfeasibleBudget: no bits at all are within the budget.
    """
    whole, free = matched(problem.layer_entries(), problem.space.groups), searched(problem)
    few = {
        name: {pair: cost for pair, cost in options.items() if name not in free or pair[0] in bits}
        for name, options in whole.items()
    }
    there = bits and all({w for w, _ in few[name]} == set(bits) for name in free)
    if there and unused(problem, few) <= UNUSED:
        return few
    assign(problem, whole, {})
    return whole


def unused(problem: Problem, menu: Menu) -> float:
    """The share of the budget that the most bits leave; all of it if nothing is within it."""
    try:
        assign(problem, menu, {})
    except InfeasibleBudget:
        return 1.0
    return 1 - problem.budget.load(problem.cost(most(menu))) / problem.budget.limit
