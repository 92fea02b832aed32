"""What EvoQ judges policies by: how far the outputs of a few samples move.

With the logits z of the quantized network and v of the pretrained one on N images without labels,

    D = 1/N sum_n ||z_n - v_n||_2^2 / ||v_n||_2^2,

which is 0 for the float network and does not change with the scale of the outputs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from frameworks.core.evaluation.evaluate import Evaluator, Score
from frameworks.core.evaluation.tabled import TabledEvaluator
from frameworks.core.policy import FLOAT, Policy
from frameworks.core.problem import Problem
from frameworks.core.search.wall import assign, chosen
from frameworks.core.split import TensorSplit

SMALLEST = 1e-12


class Differences:
    """The output difference of policies; in an oracle's table, which has no outputs, their loss.

    Args:
        problem: quantizes, corrects BatchNorm and counts.
        images: the samples ``[N, C, H, W]``.
    """

    def __init__(self, problem: Problem, images: Tensor) -> None:
        self.problem = problem
        if problem.known is not None:
            self.evaluator: Evaluator = TabledEvaluator(problem.known, len(images), problem.meter)
            return
        labels = torch.zeros(len(images), dtype=torch.long, device=images.device)
        self.split = TensorSplit(images, labels)
        self.evaluator = Evaluator(
            problem.quantized(), self.split, problem.correction, problem.meter
        )
        with torch.no_grad():
            self.wanted: Tensor = problem.float_model()(images)

    def __call__(self, policy: Policy) -> Score:
        """The difference as the ``loss``, and exp(-difference) on the scale of an accuracy."""
        if self.problem.known is not None:
            return self.evaluator(policy)
        self.evaluator.settle(policy)
        found = difference(self.evaluator.outputs(self.split), self.wanted)
        return Score(100 * math.exp(-found), found)

    def sensitivities(self, target: Policy) -> list[float]:
        """The difference with one decision of the space quantized, as in ``target``, by itself.

        All else is float; in a table, which has no float, at its most bits, and what these lose by
        themselves is taken off. None of this counts as a policy, its images do.
        """
        space, counted = self.problem.space, self.problem.meter.policies
        tabled = self.problem.known is not None
        rest = space.highest() if tabled else Policy.uniform(space.layers, FLOAT, FLOAT)
        least = self(rest).loss if tabled else 0.0
        found = []
        for done, choice in enumerate(space.choices):
            self.problem.progress(done, len(space.choices), "layers quantized alone")
            alone = assign(rest, choice, chosen(target, choice))
            found.append(max(self(alone).loss - least, 0.0))
        self.problem.meter.policies = counted
        return found


def difference(found: Tensor, wanted: Tensor) -> float:
    """D of outputs ``[N, ...]``; infinite where an output is not finite."""
    z, v = (x.detach().double().flatten(1) for x in (found, wanted))
    apart = (z - v).square().sum(1) / v.square().sum(1).clamp_min(SMALLEST)
    value = float(apart.mean())
    return value if math.isfinite(value) else math.inf


def uniform_within(problem: Problem, bits: Sequence[int]) -> Policy:
    """The uniform policy of most bits within the budget; the cheapest policy where none is."""
    for b in sorted(bits, reverse=True):
        policy = problem.space.nearest(problem.space.reference(b, b))
        if problem.within(policy):
            return policy
    return problem.cheapest()
