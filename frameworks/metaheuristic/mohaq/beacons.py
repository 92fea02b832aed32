"""Beacons: a few retrained policies whose weights tell what retraining does for their neighbours.

Rezk et al. ("MOHAQ", arXiv 2108.01192) retrain a policy only if no earlier one is near, with

    distance(p, q) = sum over layers of |log2 b_p - log2 b_q|,    b the (mean) weight bits,

which counts 2, 4, 8 and 16 bits as 1, 2, 3 and 4, and evaluate the neighbours with its weights.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from frameworks.core.evaluation.evaluate import Evaluator, Score
from frameworks.core.evaluation.train import Recipe
from frameworks.core.policy import PRUNED, Policy
from frameworks.core.problem import Problem
from frameworks.core.split import Split


@dataclass(frozen=True, eq=False)
class Beacon:
    """A retrained policy.

    Attributes:
        policy: the bits it was retrained at.
        weights: the float weights found, a state dict of the float network.
        evaluator: evaluates any policy with these weights.
    """

    policy: Policy
    weights: Mapping[str, Tensor]
    evaluator: Evaluator


class Beacons:
    """The beacons of one search.

    Args:
        problem: retrains and evaluates; all of that is search cost.
        recipe: of the retraining.
        threshold: a beacon further away than this says nothing about a policy.
        most: how many may be made.
    """

    def __init__(self, problem: Problem, recipe: Recipe, threshold: float, most: int) -> None:
        self.problem, self.recipe = problem, recipe
        self.threshold, self.most = threshold, most
        self.found: list[Beacon] = []

    def near(self, policy: Policy) -> Beacon | None:
        """The nearest beacon within the threshold; else a new one, if there may be more."""
        nearest = min(self.found, key=lambda b: distance(policy, b.policy), default=None)
        if nearest is not None and distance(policy, nearest.policy) <= self.threshold:
            return nearest
        return self._retrained(policy) if len(self.found) < self.most else None

    def _retrained(self, policy: Policy) -> Beacon:
        axis = f"beacon {len(self.found)}"
        weights = self.problem.fine_tune(policy, self.recipe, axis=axis).float_state()
        self.found.append(Beacon(policy, weights, self.problem.evaluator(weights)))
        return self.found[-1]


def largest_error(
    evaluator: Evaluator, parts: Sequence[Split], limit: float
) -> tuple[float, float]:
    """The largest error in percent over parts of a split, and the mean loss over those measured.

    The evaluator is at the policy already. Parts are measured until one reaches the error limit.
    """
    scores: list[Score] = []
    for part in parts:
        scores.append(evaluator.measure(part))
        if 100 - scores[-1].accuracy >= limit:
            break
    worst = max(100 - score.accuracy for score in scores)
    return worst, sum(score.loss for score in scores) / len(scores)


def distance(first: Policy, second: Policy) -> float:
    """How far two policies' weight bits are apart, in doublings; pruned layers count as one bit."""
    return sum(abs(_level(first, name) - _level(second, name)) for name in first)


def _level(policy: Policy, name: str) -> float:
    bits = policy[name].mean_weight
    return 0.0 if bits == PRUNED else math.log2(bits)
