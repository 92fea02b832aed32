"""Divergence: what the network's answers lose when one layer alone is quantized.

For the weights, or the input activations, of layer i at b bits, all else in float,

    Omega_i(b) = mean over images of KL(softmax(f(x)) || softmax(f_{i, b}(x))),

and the policy of least sum_i Omega_i within the budget, by an exact integer programme. These are
ZeroQ's sensitivities (Cai et al., arXiv 2001.00281, section 3) on images at hand in place of
distilled ones, as maintained toolkits use them. It needs no labels and no gradients: a pass over a
few images for each layer and bit width, which goes on from the layer that differs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from frameworks.core.card import Card
from frameworks.core.evaluation.answered import AnsweredSplit
from frameworks.core.evaluation.evaluate import Evaluator
from frameworks.core.networks.correction import Correction
from frameworks.core.policy import FLOAT, Policy
from frameworks.core.problem import Problem
from frameworks.core.registry import register
from frameworks.core.search.sensitivities import Sensitivity, SensitivityFramework
from frameworks.core.space import Choice
from frameworks.core.split import TensorSplit


@register
@dataclass
class Divergence(SensitivityFramework):
    """KL of the network's answers with one layer quantized, and an exact integer programme.

    Attributes:
        images: calibration images that the answers are of, at most.
        solver: see `frameworks.core.search.sensitivities.SOLVERS`.
    """

    name: ClassVar[str] = "divergence"
    card: ClassVar[Card] = Card(
        title="KL divergence of one quantized layer at a time",
        year=2020,
        category="baseline",
        quantizer="mse",
        granularity="layer",
        searches=("weight", "act"),
        quantization=("deterministic rounding",),
        needs=frozenset({"calibration", "separable_cost"}),
    )

    images: int = 64
    solver: str = "exact"

    def sensitivity(self, problem: Problem) -> Sensitivity:
        evaluator = self._evaluator(problem)
        found: dict[str, dict[str, dict[int, float]]] = {"weight": {}, "act": {}}
        steps = [(choice, bits) for choice in problem.space.choices for bits in choice.bits]
        for done, (choice, bits) in enumerate(steps):
            problem.progress(done, len(steps), "layers quantized alone")
            kinds = ("weight", "act") if choice.kind == "both" else (choice.kind,)
            loss = evaluator(alone(problem, choice, bits)).loss
            for kind in kinds:
                for name in choice.layers:
                    # What is decided as one loses as one: its first entry has all of the loss.
                    first = (kind, name) == (kinds[0], choice.layers[0])
                    found[kind].setdefault(name, {})[bits] = loss if first else 0.0
        return Sensitivity(found["weight"], found["act"])

    def _evaluator(self, problem: Problem) -> Evaluator:
        """Scores policies by the float network's answers, BatchNorm as stored."""
        images = problem.images[: self.images]
        split = TensorSplit(
            images, torch.zeros(len(images), dtype=torch.long, device=images.device)
        )
        teacher = problem.float_model()
        answered = AnsweredSplit(split, teacher, soft=True, keep=True)
        correction = Correction.of(teacher, images, "stored")
        return Evaluator(problem.quantized(), answered, correction, problem.meter)


def alone(problem: Problem, choice: Choice, bits: int) -> Policy:
    """The policy that quantizes what one decision is about, and leaves all else in float."""
    policy = Policy.uniform(problem.layers, FLOAT, FLOAT)
    for name in choice.layers:
        policy = policy.replace(
            name,
            weight=None if choice.kind == "act" else bits,
            act=None if choice.kind == "weight" else bits,
        )
    return policy
