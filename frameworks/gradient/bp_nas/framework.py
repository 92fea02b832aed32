"""BP-NAS: Search What You Want: Barrier Panelty NAS for Mixed Precision Quantization.

Yu, Han, Li, Shi, Cheng and Fan, ECCV 2020, arXiv 2007.10026 (the title is spelt as published).

- Super net (`frameworks.gradient.bp_nas.pairs`): every block (or layer) holds K candidates, pairs
  of weight and activation bits; its layers' outputs are the sums weighed by p = softmax(theta).
- Soft barrier penalty (`frameworks.gradient.bp_nas.barrier`): with the expected bit operations
  E[B] and the limit U,
      L_c = -mu log(log(U + 1 - E[B])),
  next to nothing inside the valid domain, without bound at its border: the search starts inside and
  never leaves, and one search answers one constraint.
- Prob-1 regularizer: L_prob1 = mean over decisions of prod_k (1 - p_k), 0 where one candidate has
  all the probability, so that what was trained is what is chosen.
- Bilevel: theta = argmin L_valid(w*(theta), theta) + L_c + lambda L_prob1, w* = argmin L_train; the
  two take turns, w on one half of the training images and theta on the other.
- Distribution reshaping (Scale-Clip of GDRQ, arXiv 1908.01477): after every update of the weights
  W <- clip(W, -T, T), T = k mean|W|, which makes them uniform.
- mu shrinks and lambda grows as the search goes on; the candidates of highest p are trained.

Shorter searches: theta moves by about ``theta_lr`` a step, and has to move by some units: raise
``theta_lr`` as steps get fewer. The notes have E[B] / U (``load``) and the entropy of p.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor, nn

from frameworks.core.card import Card
from frameworks.core.evaluation.train import Recipe, cross_entropy
from frameworks.core.framework import Framework
from frameworks.core.networks.qmodel import QModel
from frameworks.core.networks.taking.bake import mask_of, stored_weight
from frameworks.core.problem import Problem
from frameworks.core.registry import register
from frameworks.core.solution import Solution
from frameworks.core.supernets.decisions import block_decisions, cheapest_picks, decided
from frameworks.gradient.bp_nas.scale_clip import scale_clip_
from frameworks.gradient.bp_nas.search import Search

PAIRS = [[2, 2], [2, 4], [3, 3], [4, 4], [4, 6], [6, 4], [8, 4], [8, 8]]


@register
@dataclass
class BPNAS(Framework):
    """A super net over pairs of bits that a barrier keeps within the budget.

    Attributes:
        epochs: passes over both halves of the training images.
        warmup: first epochs, in which only the weights are trained.
        images: training images an epoch, both halves together; None for all.
        batch: batch size.
        lr: peak learning rate of the weights, cosine to zero.
        weight_decay: of the weights.
        range_lr: learning rate of learned quantization ranges, relative to ``lr``.
        theta_lr: learning rate of the logits.
        theta_decay: their weight decay.
        mu: weight of the barrier, times 0.1 after each third of the epochs.
        prob1: last weight of the Prob-1 regularizer, from 0 after the first third of the epochs.
        reshape: k of the weights' Scale-Clip; 0 does not reshape.
        pairs: candidate (weight, activation) bits, moved to the nearest of the space.
        layerwise: every layer is a choice, and not every block.
        augment: whether images are augmented as the dataset says.
    """

    name: ClassVar[str] = "bp_nas"
    card: ClassVar[Card] = Card(
        title="Search What You Want: Barrier Panelty NAS for Mixed Precision Quantization",
        year=2020,
        category="gradient",
        quantizer="scale_clip",
        quantization=("deterministic rounding",),
        granularity="block",
        searches=("weight", "act"),
        needs=frozenset({"calibration", "train", "separable_cost"}),
        arxiv="2007.10026",
        venue="ECCV 2020",
        hardware_aware=True,
        deviations=(
            "no code is released, and only abstract and appendix's summary were read: formulas are "
            "from memory of the paper, and what follows is our choice where it is not known",
            "costs are mean bit products per multiply-accumulate (mean weight bits for size), the "
            "unit in which tables state constraints; Prob-1 is the mean over decisions",
            "from 1e-3 before the limit on, the barrier goes on as a line; theta's gradient is "
            "clipped at norm 1, and a step out of the valid domain is halved until it is inside, "
            "or not made; the start is inside by the cheapest candidates' logits",
            "mu is 0.1, falls tenfold after each third of the search; lambda is 0 in the first "
            "third, then rises linearly to 1",
            "the policy is the most probable one within the budget: the argmax where that is "
            "within it, as the barrier bounds the expectation only",
            "one weight tensor serves all candidates of a layer, and layers are mixed, not blocks; "
            "decisions are blocks or, with layerwise, layers",
            "optimizers, rates, batch and equal halves are those of DARTS; the halves take turns "
            "epoch by epoch; theta's objective is noted without the weights of its penalties",
            "candidates are examples of the kind of list that the paper has; first and last layer "
            "are as the protocol pins them",
            "starts from the pretrained network; the found policy is trained from it, too, by a "
            "recipe of ours with reshaping",
            "k is 2 for weights and 4 for the running mean of activations",
        ),
    )
    searches_choices: ClassVar[bool] = True
    recipe: ClassVar[Recipe | None] = Recipe(
        epochs=100, batch=128, lr=0.01, schedule="cosine", weight_decay=1e-4, augment=True
    )

    epochs: int = 50
    warmup: int = 0
    images: int | None = None
    batch: int = 64
    lr: float = 0.025
    weight_decay: float = 3e-4
    range_lr: float = 0.1
    theta_lr: float = 3e-4
    theta_decay: float = 1e-3
    mu: float = 0.1
    prob1: float = 1.0
    reshape: float = 2.0
    pairs: list[list[int]] = field(default_factory=lambda: [list(pair) for pair in PAIRS])
    layerwise: bool = False
    augment: bool = True

    def skip(self, problem: Problem) -> str | None:
        if (reason := super().skip(problem)) is not None:
            return reason
        decisions = block_decisions(problem, self.pairs, self.layerwise)
        if all(len(decision.options) == 1 for decision in decisions):
            return f"{self.name} finds nothing to search: every block has one candidate"
        cheapest = decided(problem.space, decisions, cheapest_picks(problem, decisions))
        if not problem.within(cheapest):
            return f"{self.name} cannot start: the cheapest of its pairs are over the budget"
        return None

    def search(self, problem: Problem) -> Solution:
        return Search(self, problem).run()

    def finish(self, problem: Problem, solution: Solution) -> QModel:
        """Train the found policy with its weights reshaped after every update."""

        def reshaped(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
            assert isinstance(model, QModel)
            for _, layer in model.qlayers():
                if self.reshape and not layer.layer.shared:
                    stored, mask = stored_weight(layer.inner), mask_of(layer.inner)
                    scale_clip_(stored.data, self.reshape, mask)
            return cross_entropy(model, x, y)

        return problem.fine_tune(solution.policy, loss=reshaped)

    def mu_at(self, epoch: int) -> float:
        """The barrier's weight in an epoch, from 0."""
        return float(self.mu * 0.1 ** (3 * epoch // max(self.epochs, 1)))

    def lambda_at(self, epoch: int) -> float:
        """The Prob-1 regularizer's weight in an epoch, from 0; the last one has all of it."""
        third = self.epochs / 3
        return self.prob1 * max(0.0, (epoch + 1 - third) / (self.epochs - third))
