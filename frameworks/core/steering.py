"""Meeting a hard budget with a method that only has a penalty: adjust the penalty's strength.

The strength is multiplied until one run is within the budget and one is over it, then the interval
is bisected in the logarithm, a bounded number of runs in all. Every run is search cost.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, is_dataclass, replace

from frameworks.core.answers import searched
from frameworks.core.framework import Framework
from frameworks.core.problem import Problem
from frameworks.core.solution import Solution

GROWTH = 4.0


@dataclass(frozen=True)
class Trial:
    """One run of the search and what its policy costs."""

    strength: float
    cost: float
    within: bool


def steer(framework: Framework, problem: Problem, max_runs: int = 6) -> Solution:
    """Search within the budget: once, or with adjusted strength for steered methods.

    The solution is the run within the budget that uses the most of it, or, if no run was, the
    one that costs least (the caller must check and report that it is over budget). The trials are
    in its notes.

    Raises:
        ValueError: the strength to start from is not positive.
        WrongAnswer: what the search returned is no solution of the problem.
    """
    name = framework.strength
    if name is None:
        return searched(framework, problem)
    strength = float(getattr(framework, name))
    if not strength > 0:
        raise ValueError(f"{framework.name}.{name} = {strength:g} must be positive to be steered")
    weak, strong = -math.inf, math.inf  # log strengths known to be over and within the budget
    trials: list[Trial] = []
    best: tuple[bool, float, Solution] | None = None
    for run in range(max_runs):
        problem.progress(run, max_runs, f"{name}={strength:.3g}")
        assert is_dataclass(framework)
        attempt: Framework = replace(framework, **{name: strength})
        solution = searched(attempt, problem)
        cost = problem.cost(solution.policy)[problem.budget.metric]
        within = problem.within(solution.policy)
        trials.append(Trial(strength, cost, within))
        rank = (within, cost if within else -cost)
        if best is None or rank > best[:2]:
            best = (*rank, solution)
        if within and cost >= framework.close * problem.budget.limit:
            break
        if within:
            strong = min(strong, math.log(strength))
        else:
            weak = max(weak, math.log(strength))
        strength = _next(weak, strong)
    assert best is not None
    noted = {**best[2].notes, "steering": [vars(trial) for trial in trials]}
    return replace(best[2], notes=noted)


def _next(weak: float, strong: float) -> float:
    if math.isinf(strong):
        return math.exp(weak) * GROWTH
    if math.isinf(weak):
        return math.exp(strong) / GROWTH
    return math.exp((weak + strong) / 2)
