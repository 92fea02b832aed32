"""ZeroQ: A Novel Zero Shot Quantization Framework (Cai et al., CVPR 2020), arXiv 2001.00281.

No image of any data set is read. The method has three steps, as the paper's section 3:

1. Distilled data: a batch of Gaussian noise x is optimised until its statistics in front of every
   BatchNorm layer are the stored ones (the images' own channels: mean 0, deviation 1),

       min_x sum_{i=0..L} ||mu~_i - mu_i||_2^2 + ||sigma~_i - sigma_i||_2^2.

2. Sensitivity of layer i at k bits: how far the network's output moves on the distilled data when
   only this layer is quantized,

       Omega_i(k) = 1/N sum_j KL( M(theta; x_j), M(theta~_i(k); x_j) ).

   Layers are taken as independent, Omega_sum = sum_i Omega_i(k_i).

3. Pareto frontier: min sum_i Omega_i(k_i) subject to sum_i cost_i(k_i) <= limit (the paper: model
   size sum_i P_i k_i). Of the m^L settings, dynamic programming finds those that no other one
   beats in both cost and Omega_sum, in a time linear in L; the best one within the limit is taken.

Activation ranges come from the distilled data as well, and nothing is trained.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from frameworks.core.card import Card
from frameworks.core.framework import ScoringFramework
from frameworks.core.networks.qmodel import QModel
from frameworks.core.policy import FLOAT, Pair, Policy
from frameworks.core.problem import Problem
from frameworks.core.registry import register
from frameworks.core.search.frontier import walk
from frameworks.core.solution import Scores, Solution
from frameworks.heuristic.zeroq.distilled import Distilled, distil


@register
@dataclass
class ZeroQ(ScoringFramework):
    """Distilled data, KL sensitivities and a Pareto frontier; no data at all.

    Attributes:
        images: distilled images, one batch.
        steps: of the distillation.
        lr: of the distillation's Adam, times 0.1 after ``patience`` steps without a lower loss.
        patience: see above.
        per_image: match the statistics of each distilled image by itself, as the released code.
        bins: longest frontier kept exactly; a longer one is thinned by bins of cost.
        points: at most this many points of the frontier are reported.
    """

    name: ClassVar[str] = "zeroq"
    card: ClassVar[Card] = Card(
        title="ZeroQ: A Novel Zero Shot Quantization Framework",
        arxiv="2001.00281",
        year=2020,
        venue="CVPR",
        category="heuristic",
        quantizer="zeroq",
        quantization=("deterministic rounding",),
        granularity="layer",
        searches=("weight", "act"),
        needs=frozenset({"batchnorm", "separable_cost"}),
        hardware_aware=False,
        deviations=(
            "The paper searches the bits of the weights and fixes those of activations. Where "
            "activation bits are free, they get a sensitivity of their own, by the same formula "
            "with only that layer's input quantized, and the two add up by the paper's own "
            "assumption of independence.",
            "The paper's cost is the model size; any cost that is a sum over layers takes its "
            "place.",
            "The released code has no mixed precision; how the paper's frontier is binned is known "
            "from its authors' remarks only. Here it is exact up to `bins` points.",
            "Statistics are those of the whole distilled batch, as BatchNorm's own; the released "
            "code matches those of each image by itself (`per_image`), which few positions in deep "
            "layers keep from converging.",
            "BatchNorm layers meet their stored statistics by hooks on the layers themselves; the "
            "released code pairs convolutions and BatchNorm layers by order of definition, which "
            "is wrong for some networks.",
        ),
    )
    trains: ClassVar[bool] = False

    images: int = 64
    steps: int = 500
    lr: float = 0.5
    patience: int = 100
    per_image: bool = False
    bins: int = 10_000
    points: int = 16

    def score(self, problem: Problem) -> Scores:
        distilled = self.distilled(problem)
        weights, acts = self.sensitivities(problem, distilled.images)
        first, last = distilled.losses[0], distilled.losses[-1]
        return Scores(
            {"weight": weights, "act": acts, "distillation": {"first": first, "last": last}},
            distilled.images,
        )

    def distilled(self, problem: Problem) -> Distilled:
        """Step 1."""
        made = distil(
            problem.float_model(),
            problem.input_shape,
            problem.generator("distillation"),
            count=self.images,
            steps=self.steps,
            lr=self.lr,
            patience=self.patience,
            per_image=self.per_image,
            progress=lambda done, total: problem.progress(done, total, "distilling data"),
        )
        # The loss leaves the network before its output, where the meter waits for gradients.
        problem.meter.images_backward += self.images * self.steps
        return made

    def sensitivities(
        self, problem: Problem, images: Tensor
    ) -> tuple[dict[str, dict[str, float]], dict[str, dict[str, float]]]:
        """Step 2: Omega of each free layer by bits, of its weights and of its input activations."""
        space = problem.space
        qmodel = problem.quantized(images=images)
        unquantized = Policy.uniform(problem.layers, FLOAT, FLOAT)
        teacher = log_probabilities(qmodel, unquantized, images)
        found: tuple[dict[str, dict[str, float]], ...] = ({}, {})
        for done, layer in enumerate(space.free_layers):
            name = layer.name
            problem.progress(done, len(space.free_layers), "sensitivities")
            for kind, scores, bits in zip(
                ("weight", "act"), found, (space.weight_bits, space.act_bits), strict=True
            ):
                if len(bits[name]) > 1:
                    scores[name] = {
                        str(b): divergence(
                            teacher,
                            log_probabilities(
                                qmodel, unquantized.replace(name, **{kind: b}), images
                            ),
                        )
                        for b in bits[name]
                    }
        return found[0], found[1]

    def losses(self, problem: Problem, scores: Scores) -> dict[str, dict[Pair, float]]:
        return {
            name: {pair: omega(scores.values, name, *pair) for pair in options}
            for name, options in problem.layer_entries().items()
        }

    def solve(self, problem: Problem, scores: Scores) -> Solution:
        """Step 3."""
        found = walk(problem, self.losses(problem, scores), bins=self.bins, points=self.points)
        policy = Policy(found.best.options)
        problem.checkpoint(policy)
        return Solution(
            policy,
            front=found.front,
            images=scores.images,
            notes={"omega": found.best.value, "frontier": found.length, **_distillation(scores)},
        )

    def finish(self, problem: Problem, solution: Solution) -> QModel:
        """The network as published: ranges from the distilled data, no training."""
        return problem.quantized(solution.policy, images=solution.images)


@torch.no_grad()
def log_probabilities(qmodel: QModel, policy: Policy, images: Tensor) -> Tensor:
    """The network's log-probabilities ``[N, classes]`` at a policy; BatchNorm as stored."""
    logits: Tensor = qmodel.fix(policy)(images)
    return functional.log_softmax(logits.double(), dim=1)


def divergence(teacher: Tensor, student: Tensor) -> float:
    """Mean over images of KL(teacher || student), from log-probabilities."""
    return max(float((teacher.exp() * (teacher - student)).sum(1).mean()), 0.0)


def omega(scores: Mapping[str, Any], name: str, weight: int, act: int) -> float:
    """Omega of a layer at a pair of bits; what is not searched has none."""
    return sum(
        float(scores[kind][name][str(bits)])
        for kind, bits in (("weight", weight), ("act", act))
        if name in scores[kind]
    )


def _distillation(scores: Scores) -> dict[str, Any]:
    return {"distillation": scores.values["distillation"]}
