"""SDQ: Stochastic Differentiable Quantization with Mixed Precision.

Huang, Shen, Li, Liu, Hu, Wicaksana, Xing and Cheng, ICML 2022, arXiv 2206.04459; no code released.

- Stochastic quantization (section 3.2, figure 1a): the weights of a layer have b_i bits with
  probability beta, and else the next fewer candidate b_{i-1}. Beta is a differentiable bit-width
  parameter (DBP), one for each layer and candidate, trained through a Gumbel-softmax draw
  (equations 4 and 5) whose forward pass is a quantized network, no mixture.
- Quantization error regularizer: L = CE + lambda_Q sum_l beta_l ||Q_{b_i}(W_l) - W_l||^2. Where
  the loss does not mind fewer bits it pushes beta down; below a threshold the layer drops to
  b_{i-1} for good, and a fresh DBP begins. All start at the most bits.
- The search ends when the policy meets its target.
- Training (section 3.3): from the float weights at the bits found,
      L = KL(teacher || student) + lambda_E sum_l EBR_l
  (equation 9; equation 10: the bins' means to their centres, and their variances), the teacher
  being the float network.

Shorter searches: a logit has 9.2 to go from one drop to the next, and Adam moves it by about
``beta_lr`` a step at most; for all drops that a budget asks for ``beta_lr`` * steps has to be some
times 9.2 times their number. But a draw tells what fewer bits cost only while beta is well between
0 and 1: a few steps from drop to drop (``beta_lr`` of 2 and more) are ordered by noise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from frameworks.core.card import Card
from frameworks.core.evaluation.distillation import distillation
from frameworks.core.evaluation.train import Recipe, cross_entropy
from frameworks.core.framework import Framework
from frameworks.core.networks.qmodel import QModel
from frameworks.core.networks.taking.bake import raw_weight
from frameworks.core.policy import Policy
from frameworks.core.problem import Problem
from frameworks.core.quantizers.base import Quantizer
from frameworks.core.registry import register
from frameworks.core.search.course import Course
from frameworks.core.solution import Solution
from frameworks.core.supernets.activations import affordable_activations
from frameworks.core.supernets.placed import PlacedNet, Spot
from frameworks.gradient.sdq.stochastic import (
    Ladder,
    ScaledWeight,
    StochasticWeight,
    bin_regularizer,
)


@register
@dataclass
class SDQ(Framework):
    """Bits drawn between neighbours by learned probabilities, which fall until the budget is met.

    Attributes:
        epochs: passes over the training images.
        images: training images an epoch; None for all.
        batch: batch size.
        lr: learning rate of the weights (Adam).
        beta_lr: learning rate of the DBPs' logits (Adam).
        lambda_q: weight of the quantization error regularizer.
        lambda_e: weight of the bin regularizer in training.
        start: beta of a fresh DBP.
        threshold: beta below which a layer drops.
        tau: temperature of the Gumbel-softmax.
        act_bits: activation bits of all layers; fewer where the budget asks for it (see the card).
        range_lr: learning rate of learned quantization ranges, relative to ``lr``.
        augment: whether images are augmented as the dataset says.
    """

    name: ClassVar[str] = "sdq"
    card: ClassVar[Card] = Card(
        title="SDQ: Stochastic Differentiable Quantization with Mixed Precision",
        year=2022,
        category="gradient",
        quantizer="sdq",
        quantization=("deterministic rounding", "learned range"),
        granularity="layer",
        searches=("weight",),
        needs=frozenset({"calibration", "train"}),
        arxiv="2206.04459",
        venue="ICML 2022",
        deviations=(
            "written without the paper's equations of the regularizers at hand, and no code was "
            "released: the quantization error is the sum over a layer's weights times beta, the "
            "one form found whose slope lowers bits, with the weights not pulled along; the bin "
            "regularizer has the variance of the population",
            "beta is the sigmoid of a trained logit, as the slope of a draw in beta itself is "
            "without bound near 0 and 1; it starts at 0.99, does not rise above that, and drops "
            "its layer below 0.01",
            "the search stops dropping where the policy meets the budget; the paper's target is an "
            "average of bits. Where it does not come that far, lambda_q is raised",
            "learning rates and optimizer (Adam) of the search, its temperature (constant) and one "
            "draw a layer and batch are chosen here; lambda_q and the recipe are from memory",
            "activation bits, which the paper sets by hand, are where the target prices them the "
            "most up to act_bits at which the uniform policy of equal bits is within the budget",
            "bits of layers alone are searched; the paper also tries kernels, and finds them "
            "unstable",
            "the teacher is the network's own float weights; the paper also has larger teachers",
            "the weights' scale in training is that of the authors' sibling work N2UQ, per output "
            "channel; activations are PACT's, whose clip is learned",
            "under quantizers other than the paper's the bin regularizer, which is of its levels, "
            "has no part",
            "without the loss's gradient Adam takes every DBP down at one pace, whatever its "
            "error: where a uniform policy uses up the budget, the penalty alone finds that one. "
            "On digits (suite quick, 2.4 bits, 3 seeds) it is 3-bit weights, 97.3 % on "
            "search-validation images and of lower loss than each of 60 random policies; the loss "
            "brings other bits, not better ones (97.0 %). Where no uniform policy uses up the "
            "budget (2.2 bits, beta_lr 0.7, lambda_q 0.1), 96.2 % are found with it and 95.7 % "
            "without. The error that is minimised grows with each dropped level: the objective "
            "need not fall",
            "tied layers share a DBP and a draw; where bits are paired, activations have the most "
            "bits during the search and follow the weights in the policy; pinned layers have none",
        ),
    )
    strength: ClassVar[str | None] = "lambda_q"
    close: ClassVar[float] = 0.8
    lowers_bits: ClassVar[bool] = True
    searches_weights: ClassVar[bool] = True
    recipe: ClassVar[Recipe | None] = Recipe(
        epochs=120, batch=256, optimizer="adam", lr=5e-4, weight_decay=0.0, augment=True
    )

    epochs: int = 60
    images: int | None = None
    batch: int = 256
    lr: float = 5e-4
    beta_lr: float = 0.01
    lambda_q: float = 1e-6
    lambda_e: float = 0.1
    start: float = 0.99
    threshold: float = 0.01
    tau: float = 1.0
    act_bits: int = 4
    range_lr: float = 0.1
    augment: bool = True

    def validate(self) -> None:
        super().validate()
        if not 0 < self.threshold < self.start < 1:
            raise ValueError(
                f"threshold = {self.threshold}, start = {self.start}: give 0 < threshold < start < "
                "1, as a probability falls from one to the other"
            )
        if not self.tau > 0:
            raise ValueError(f"tau = {self.tau}: must be positive")

    def search(self, problem: Problem) -> Solution:
        acts = affordable_activations(problem, self.act_bits)
        net, ladders = self.stochastic(problem, acts)
        objective, generator = "cross-entropy + lambda_q * error", problem.generator(self.name)
        course = Course(objective, generator, self.batch, self.augment)
        draws = problem.generator(f"{self.name} bits")
        optimizer, history = self.optimizer(net, ladders), []

        def loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
            for each in ladders.values():
                each.sample(draws, self.tau)
            task = cross_entropy(model, x, y)
            return course.step(task, task + self.lambda_q * error(net))

        def drop() -> None:
            for each in ladders.values():
                if not problem.within(policy_of(net, acts)) and each.drop(self.threshold):
                    optimizer.state.pop(each.logit, None)

        for epoch in range(self.epochs):
            problem.progress(epoch, self.epochs, f"stochastic bits, lambda_q {self.lambda_q:.3g}")
            course.run(net.qmodel, problem.train, self.images, [optimizer], loss, drop)
            history.append([each.expected for each in ladders.values()])
            problem.checkpoint(policy_of(net, acts))
            if problem.within(policy_of(net, acts)):
                break
        notes = {"lambda_q": self.lambda_q, "bits": history, "learning": course.to_json()}
        return Solution(policy_of(net, acts), notes=notes, cross_entropy=course.last)

    def finish(self, problem: Problem, solution: Solution) -> QModel:
        """Train the float weights at the bits found, by the teacher and the bin regularizer."""
        teacher = distillation(problem.float_model(), temperature=1.0, weight=1.0)
        free = problem.space.free_weights

        def loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
            assert isinstance(model, QModel)
            total = teacher(model, x, y)
            for qlayer in (model.qlayer(name) for name in free):
                if isinstance(qlayer.weight_quantizer, ScaledWeight):
                    bins = bin_regularizer(raw_weight(qlayer.inner), qlayer.weight_quantizer)
                    total = total + self.lambda_e * bins
            return total

        return problem.fine_tune(solution.policy, loss=loss)

    def stochastic(
        self, problem: Problem, acts: dict[str, int]
    ) -> tuple[PlacedNet, dict[int, Ladder]]:
        """The network with a ladder for each decision about weights; the ladders by its row."""
        ladders: dict[int, Ladder] = {}

        def make(spot: Spot) -> Quantizer:
            name = spot.layer.name
            if spot.kind == "act":
                return problem.quantizer(name, "act", acts[name])
            ladder = ladders.setdefault(spot.row, Ladder(spot.bits, self.start, problem.device))
            each = {bits: problem.quantizer(name, "weight", bits) for bits in spot.bits}
            return StochasticWeight(ladder, each)

        return PlacedNet(problem, make), ladders

    def optimizer(self, net: PlacedNet, ladders: dict[int, Ladder]) -> torch.optim.Optimizer:
        """Adam over weights, DBPs and learned ranges."""
        logits = [each.logit for each in ladders.values()]
        groups: list[dict[str, Any]] = [
            {"params": net.qmodel.weight_parameters()},
            {"params": logits, "lr": self.beta_lr},
            {"params": net.ranges_beside(logits), "lr": self.lr * self.range_lr},
        ]
        return torch.optim.Adam([g for g in groups if g["params"]], lr=self.lr)


def error(net: PlacedNet) -> Tensor:
    """``sum_l beta_l ||Q_{b_i}(W_l) - W_l||^2`` over the layers that can drop (a scalar)."""
    total = torch.zeros((), device=net.problem.device)
    for spot, quantizer in net.placed("weight"):
        assert isinstance(quantizer, StochasticWeight)
        if quantizer.ladder.level:
            raw = raw_weight(net.qmodel.qlayer(spot.layer.name).inner)
            total = total + quantizer.ladder.beta * quantizer.error(raw)
    return total


def policy_of(net: PlacedNet, acts: dict[str, int]) -> Policy:
    """The bits that the ladders stand at, with the activation bits of the search."""

    def bits(quantizer: Quantizer) -> int:
        assert isinstance(quantizer, StochasticWeight)
        return quantizer.ladder.bits

    return net.weights_at(bits, acts)
