"""ADQ: Adaptive Distribution-aware Quantization (Jia et al., 2025), arXiv 2510.19760.

Weights and activations are treated apart, as their distributions differ:

1. Weights: a codebook a layer, started at quantiles of its positive and of its negative weights
   with zero between them (`frameworks.heuristic.adq.codebook`),
2. which follows the weights by an exponential moving average while they are trained,

       c_k <- mu c_k + (1 - mu) mean{w : a(w) = k};

3. sensitive layers get more bits: layers are ranked by a sensitivity, and bits given out until the
   average (2.81 in the paper) is reached. Here, for layer i of n_i weights at b bits,

       S_i(b) = F_i / n_i * ||Q_b(W_i) - W_i||_2^2,    F_i = E||dl/dW_i||_2^2,

   the error that its codebook makes, weighed by the mean squared gradient (the empirical Fisher
   information, the second-order term of the loss at a trained network), and the bits solve

       minimise  sum_i S_i(b_i)   subject to   the budget.

4. Activations: learned thresholds, uniform levels (`frameworks.heuristic.adq.thresholds`). Where
   their bits are free, the input a of a layer has, by the same formula,

       S_i(b) = E||dl/da_i||_2^2 * mean (Q_b(a_i) - a_i)^2.

Then the network is trained at its bits (``protocol=paper``), distilled from the float one.

Only the paper's abstract and summaries by others could be read: of stage 3 they say no more than
what is said here before the first formula of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from frameworks.core.card import Card
from frameworks.core.estimators.perturbation import activation_error, weight_error
from frameworks.core.evaluation.distillation import FLOAT, distillation
from frameworks.core.evaluation.train import Recipe
from frameworks.core.networks.qmodel import QModel
from frameworks.core.problem import Problem
from frameworks.core.registry import register
from frameworks.core.search.sensitivities import Sensitivity, SensitivityFramework
from frameworks.core.solution import Solution
from frameworks.heuristic.adq.fisher import fisher_traces


@register
@dataclass
class ADQ(SensitivityFramework):
    """Codebooks that follow the weights, and bits by gradient-weighed codebook errors.

    Attributes:
        images: labelled training images behind the gradients.
        distil: train the found policy by the float network's answers (as N2UQ does), not by labels.
        solver: who gives out the bits: ``exact``, ``frontier`` or ``greedy``.
    """

    name: ClassVar[str] = "adq"
    card: ClassVar[Card] = Card(
        title="Adaptive Distribution-aware Quantization for Mixed-Precision Neural Networks",
        arxiv="2510.19760",
        year=2025,
        category="heuristic",
        quantizer="adq",
        quantization=("codebook", "learned range"),
        granularity="layer",
        searches=("weight", "act"),
        needs=frozenset({"calibration", "train", "separable_cost"}),
        deviations=(
            "A reconstruction: the paper's abstract and summaries by others are all that could be "
            "read. Known are quantiles a side with zero, the moving average, that sensitivity "
            "gives out the bits, and N2UQ's activations; the rest of this list is chosen.",
            "The sensitivity is the codebook's squared error times the mean squared gradient: it "
            "needs one backward pass an image, and a more sensitive layer never gets fewer bits "
            "than an equal one. Bits solve an exact integer programme.",
            "The paper's limit is an average number of bits (over layers or weights, with or "
            "without activations, is not known); any budget that is a sum over layers takes its "
            "place. The abstract has the allocation inside the weights' scheme; where activation "
            "bits are free, they have a sensitivity by the same formula.",
            "Where a protocol's labels are shares of the classes, the squared gradient is that of "
            "labels drawn by them, in the mean.",
            "Quantiles are at (j + 1/2) / m of each side, so that 2^b - 1 levels are used; the "
            "average keeps 0.99, zero stays, and a level without weights stays where it is. One "
            "bit has the medians of both sides and no zero.",
            "Activations start at the grid of least squared error on the calibration images, as a "
            "pretrained network's are not in [0, 2]; negative ones move N2UQ's start below zero. "
            "N2UQ's PReLUs and biases change the network and are left out.",
            "Distillation is from the float network itself (`distil`), with N2UQ's loss; N2UQ has "
            "a larger teacher, and the paper reports both with and without one. The recipe is "
            "N2UQ's, with a cosine in the place of its linear decay.",
            "Under a common quantizer the errors are that quantizer's: codebooks and thresholds "
            "are part of `protocol=paper` alone.",
        ),
    )
    recipe: ClassVar[Recipe | None] = Recipe(
        epochs=128,
        batch=256,
        optimizer="adam",
        lr=1.25e-3,
        range_lr=0.1,
        weight_decay=0.0,
        augment=True,
    )

    images: int = 256
    distil: bool = True
    solver: str = "exact"

    def sensitivity(self, problem: Problem) -> Sensitivity:
        """Stage 3's S of every free layer, of its weights and of its input activations."""
        space = problem.space
        searched = [x for x in problem.layers if len(space.weight_bits[x.name]) > 1]
        acts = [x.name for x in problem.layers if len(space.act_bits[x.name]) > 1]
        split = problem.train.subset(self.images, problem.generator("sensitivity"))
        weights, inputs = fisher_traces(
            problem.float_model(),
            split,
            space.free_weights,
            acts,
            lambda done, total: problem.progress(done, total, "squared gradients"),
            problem.generator("signs"),
        )

        def loss(name: str, params: int, bits: int) -> float:
            # A weight that is stored once has its loss where it is stored.
            if name not in weights:
                return 0.0
            return weights[name] / params * weight_error(problem, name, bits)

        return Sensitivity(
            weight={
                x.name: {b: loss(x.name, x.params, b) for b in space.weight_bits[x.name]}
                for x in searched
            },
            act={
                name: {b: inputs[name] * activation_error(problem, name, b) for b in bits}
                for name, bits in space.act_bits.items()
                if name in inputs
            },
        )

    def finish(self, problem: Problem, solution: Solution) -> QModel:
        """Train at the found bits; the codebooks follow."""
        taught = distillation(FLOAT, temperature=1.0, weight=1.0) if self.distil else None
        return problem.fine_tune(solution.policy, loss=taught)
