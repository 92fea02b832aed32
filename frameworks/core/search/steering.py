"""Meeting a hard budget with a method that only has a penalty: adjust the penalty's strength.

The strength is doubled until one run is within the budget, or halved until one is over it; then
the interval is bisected in the logarithm, a bounded number of runs in all. Every run is search
cost. Two things that a penalty may do are looked after:

- It may break the network before it meets the budget. A search that trains reports its last
  cross-entropy, and one whose network is not far from chance has *collapsed*: it counts as too
  strong whatever it costs, and ranks last.
- A stronger run may cost more: penalty and loss do not agree on every layer. What lies between
  such a run and its weaker neighbour is then looked at before the search goes on.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, is_dataclass, replace

import torch

from frameworks.core.framework import Framework
from frameworks.core.problem import Problem
from frameworks.core.search.answers import searched
from frameworks.core.solution import Solution

GROWTH = 2.0
"""Larger factors jump past the band in which a penalty costs bits and not yet the network."""
CHANCE = 0.75
"""A network has collapsed from this share of the cross-entropy of guessing, ``ln(classes)``."""


@dataclass(frozen=True)
class Trial:
    """One run of the search: what its policy costs and how well its network did in the end."""

    strength: float
    cost: float
    within: bool
    cross_entropy: float | None = None
    collapsed: bool = False

    @property
    def strong(self) -> bool:
        """Whether less strength is wanted."""
        return self.within or self.collapsed

    @property
    def rank(self) -> tuple[bool, bool, float]:
        """The better run is the larger: sound, within the budget, and using the most of it."""
        return not self.collapsed, self.within, self.cost if self.within else -self.cost


def steer(framework: Framework, problem: Problem, max_runs: int = 6) -> Solution:
    """Search within the budget: once, or with adjusted strength for steered methods.

    The solution is the run within the budget that uses the most of it, or, if no run was, the
    one that costs least (the caller must check and report that it is over budget); a collapsed
    run only if all were. The trials are in its notes, and ``collapsed`` if only such runs met the
    budget.

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
    trials: list[Trial] = []
    best: tuple[Trial, Solution] | None = None
    for run in range(max_runs):
        problem.progress(run, max_runs, f"{name}={strength:.3g}")
        assert is_dataclass(framework)
        attempt: Framework = replace(framework, **{name: strength})
        solution = searched(attempt, problem)
        trial = _tried(strength, solution, problem)
        trials.append(trial)
        if best is None or trial.rank > best[0].rank:
            best = trial, solution
        enough = framework.close * problem.budget.limit
        if trial.within and not trial.collapsed and trial.cost >= enough:
            break
        strength = next_strength(trials)
    assert best is not None
    notes = {**best[1].notes, "steering": [asdict(trial) for trial in trials]}
    if best[0].collapsed or {t.collapsed for t in trials if t.within} == {True}:
        notes["collapsed"] = True
    return replace(best[1], notes=notes)


def _tried(strength: float, solution: Solution, problem: Problem) -> Trial:
    cost = problem.budget.load(problem.cost(solution.policy))
    loss = solution.cross_entropy
    # By the negation, as a loss that is no number is no sound network's.
    collapsed = loss is not None and not loss < CHANCE * math.log(outputs(problem))
    return Trial(strength, cost, problem.within(solution.policy), loss, collapsed)


@torch.no_grad()
def outputs(problem: Problem) -> int:
    """How many classes the float network tells apart; the pass is not search cost."""
    network = copy.deepcopy(problem.network).eval()
    like = next(network.parameters())
    x = torch.zeros(1, *problem.input_shape, dtype=like.dtype, device=like.device)
    count: int = network(x).shape[1]
    return count


def next_strength(trials: Sequence[Trial]) -> float:
    """The strength to try after these runs, of which none was close enough."""
    runs = sorted(trials, key=lambda trial: trial.strength)
    pairs = list(itertools.pairwise(runs))
    for weak, strong in pairs:
        dearer = strong.cost > weak.cost and not (weak.collapsed or strong.collapsed)
        # Once only, so that the search goes on where nothing lies between.
        if dearer and strong.strength > 0.99 * GROWTH * weak.strength:
            return math.sqrt(weak.strength * strong.strength)
    for weak, strong in pairs:
        if strong.strong and not weak.strong:
            return math.sqrt(weak.strength * strong.strength)
    return runs[0].strength / GROWTH if runs[-1].strong else runs[-1].strength * GROWTH
