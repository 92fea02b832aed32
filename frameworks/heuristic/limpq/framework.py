"""LIMPQ: Mixed-Precision Neural Network Quantization via Learned Layer-wise Importance.

Tang et al., ECCV 2022, arXiv 2203.08368; released code 1hunters/LIMPQ.

- Indicators (section 3.2): the step size that LSQ learns for a layer at b bits tells how much that
  layer matters at b bits; a layer that needs a large step loses much by its rounding.
- Joint training (section 3.3): all steps at once, from the pretrained network. A step of the
  optimizer adds up the gradients of |B| + 1 passes over the batch: one with all layers at b bits
  for each candidate b of B = {6, 5, 4, 3, 2}, the most bits first, and one with bits drawn for each
  layer. Weights, BatchNorm (one for each b) and steps are trained; gradients are clipped at 1.
- Search (section 3.4), an integer linear programme that is solved once for each budget:
      minimise    sum_l  s_a[l, b_a] + alpha s_w[l, b_w]
      subject to  sum_l MAC_l b_w b_a <= the budget (bit operations), or size, or both.
  A step that is smaller than that of the next more bits is an outlier of the training; the released
  code gives it a value of 1e8, so that its bits are not taken unless nothing else fits.
- The final training is LSQ's, whose steps have scaled gradients here; the release scales none.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from frameworks.core.card import Card
from frameworks.core.evaluation.train import Recipe
from frameworks.core.framework import ScoringFramework
from frameworks.core.policy import FLOAT, PRUNED
from frameworks.core.problem import Problem
from frameworks.core.registry import register
from frameworks.core.search.course import Course
from frameworks.core.search.sensitivities import Sensitivity, exact
from frameworks.core.solution import Scores, Solution
from frameworks.heuristic.limpq.indicators import IndicatorNet, Indicators
from frameworks.heuristic.limpq.programme import outliers, without_outliers

LAST_RATE = 1e-5
CLIP = 1.0


@register
@dataclass
class LIMPQ(ScoringFramework):
    """LSQ steps of all bits, trained jointly, as the layers' importance; one integer programme.

    Attributes:
        epochs: passes over the training images.
        images: training images an epoch; None for all.
        batch: batch size.
        lr: learning rate of the first epoch; it falls along a cosine, epoch by epoch.
        range_lr: learning rate of the steps, relative to ``lr``; 1 as released.
        weight_decay: of weights; steps, biases and norms have none.
        smoothing: of the labels.
        alpha: what a weight's step counts beside an input's.
        augment: whether images are augmented as the dataset says.
    """

    name: ClassVar[str] = "limpq"
    card: ClassVar[Card] = Card(
        title="Mixed-Precision Neural Network Quantization via Learned Layer-wise Importance",
        arxiv="2203.08368",
        year=2022,
        venue="ECCV",
        category="heuristic",
        quantizer="lsq",
        quantization=("learned range",),
        granularity="layer",
        searches=("weight", "act"),
        needs=frozenset({"calibration", "train", "separable_cost"}),
        hardware_aware=True,
        deviations=(
            "training of the indicators follows the released code, as the paper leaves much open: "
            "alpha = 2 is its only value, the steps start from statistics, and its in-place "
            "distillation is switched off there and left out here",
            "the released code lets no step exceed 1; the paper does not say so, and larger inputs "
            "than ImageNet networks' need larger steps",
            "the candidates are the protocol's; where layers differ in theirs, a pass at b bits "
            "takes each layer's nearest. Layers that share bits draw them together",
            "inputs that may be negative have a signed grid; the code's are all after a ReLU",
            "steps of 8 bits, which the paper lacks, learn at a tenth of the rate, as LSQ's do",
            "an outlier is worth a thousand times all steps together (times alpha, if that is more "
            "than 1) and not 1e8, with the same optimum",
            "costs are the target's: the code rounds the positions of convolutions with stride "
            "down after their product, which counts some positions that are not there",
            "layers outside the search stay float in the joint training, as released; then they "
            "have the protocol's bits, where the code leaves the first convolution's input float",
            "indicators are LSQ's under every protocol; the found policy is trained by the "
            "protocol's quantizer, or (paper) LSQ with plain labels, steps that start at "
            "2 E|w| / sqrt(Q_P) (the code: 3 sigma / 2^(b-1)), and no Nesterov, warm-up, last rate "
            "of 1e-5 and cooldown of 5 epochs; SAT's rescaled classifier is left out",
            "a short training leaves the steps of inputs where they started (within 0.7 % after 40 "
            "updates of 32 images, when steps of weights are at 0.8 to 2.3 times their start): "
            "their half of the importance is then the statistic 2 E|x| / sqrt(Q_P). The notes tell "
            "how far both have moved",
            "steps are compared as they are, as released, though they follow the scale of weights "
            "(which BatchNorm makes free) and of inputs, and alpha is right for one network: with "
            "ResNet-8 on Fashion-MNIST it takes 2.3 to 2.8 for weights to weigh as much as inputs, "
            "and below 4 some layers get 2-bit weights",
            "under ptq the training that the indicators presume is missing: there (bops, like=3) "
            "the loss on search-validation images is 0.321 and that of uniform bits 0.269; after "
            "50 steps of fine-tuning 0.277 and 0.254 (one seed)",
        ),
    )
    recipe: ClassVar[Recipe | None] = Recipe(
        epochs=90, batch=128, lr=0.04, range_lr=1.0, weight_decay=2.5e-5, augment=True
    )

    epochs: int = 5
    images: int | None = None
    batch: int = 256
    lr: float = 0.01
    range_lr: float = 1.0
    weight_decay: float = 2.5e-5
    smoothing: float = 0.1
    alpha: float = 2.0
    augment: bool = True

    def validate(self) -> None:
        super().validate()
        if not 0 <= self.smoothing < 1:
            raise ValueError(f"smoothing = {self.smoothing}: give at least 0 and less than 1")
        if self.alpha < 0:
            raise ValueError(f"alpha = {self.alpha}: must not be negative")

    def skip(self, problem: Problem) -> str | None:
        free = {bits for choice in problem.space.choices for bits in choice.bits}
        if not free:
            return f"{self.name} finds nothing to search: the space pins all bits"
        if free & {PRUNED, FLOAT}:
            return f"{self.name} learns a step for each candidate; 0 and 32 bits have none"
        return super().skip(problem)

    def score(self, problem: Problem) -> Scores:
        net, course = self.trained(problem)
        return Scores(
            {
                "weight": {name: _plain(q.values()) for name, q in net.weights.items()},
                "act": {name: _plain(q.values()) for name, q in net.acts.items()},
                "moved": {"weight": _moved(net.weights), "act": _moved(net.acts)},
                "learning": course.to_json(),
            }
        )

    def trained(self, problem: Problem) -> tuple[IndicatorNet, Course]:
        """The network after the joint training, and how its loss went."""
        net = IndicatorNet(problem)
        generator, draws = problem.generator(self.name), problem.generator("mixed bits")
        course = Course("mean loss of all passes", generator, self.batch, self.augment)
        optimizer = self.optimizer(net)
        parameters = [p for group in optimizer.param_groups for p in group["params"]]

        def passes(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
            """All but the last one's gradients are added up here, so that no graph is kept."""
            losses = []
            for width in net.widths:
                net.uniform(width)
                losses.append(self.loss(model, x, y))
                losses[-1].backward()  # type: ignore[no-untyped-call]
            net.mixed(draws)
            losses.append(self.loss(model, x, y))
            mean = torch.stack([loss.detach() for loss in losses]).mean()
            course.step(mean, mean)
            return losses[-1]

        for epoch in range(self.epochs):
            problem.progress(epoch, self.epochs, "joint training of all indicators")
            for group in optimizer.param_groups:
                group["lr"] = group["share"] * self.rate(epoch)
            optimizers, settled = [optimizer], lambda: settle(parameters)
            course.run(net, problem.train, self.images, optimizers, passes, before_step=settled)
        return net, course

    def loss(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """A batch's mean cross-entropy with smoothed labels."""
        return functional.cross_entropy(model(x), y, label_smoothing=self.smoothing)

    def rate(self, epoch: int) -> float:
        """The learning rate of an epoch, from 0."""
        last = min(LAST_RATE, self.lr)
        return last + (self.lr - last) * (1 + math.cos(math.pi * epoch / self.epochs)) / 2

    def optimizer(self, net: IndicatorNet) -> torch.optim.Optimizer:
        """SGD with Nesterov's momentum, as timm's; decay on tensors of more than one dimension."""
        steps = net.steps()
        known = {id(p) for p in steps}
        rest = [p for p in net.parameters() if p.requires_grad and id(p) not in known]
        large, small = ([p for p in rest if (p.dim() > 1) == many] for many in (True, False))
        groups = [
            {"params": large, "weight_decay": self.weight_decay, "share": 1.0},
            {"params": small, "weight_decay": 0.0, "share": 1.0},
            {"params": steps, "weight_decay": 0.0, "share": self.range_lr},
        ]
        return torch.optim.SGD(groups, lr=self.lr, momentum=0.9, nesterov=True)

    def losses(
        self, problem: Problem, scores: Scores
    ) -> Mapping[str, Mapping[tuple[int, int], float]]:
        weights, acts = without_outliers(scores.values, self.alpha)
        # A weight that is stored once has its step, and counts, where it is stored; a pinned one
        # has none.
        for name in (x.name for x in problem.layers if x.shared and x.name in weights):
            weights[name] = dict.fromkeys(weights[name], 0.0)
        return Sensitivity(weights, acts).table(problem)

    def solve(self, problem: Problem, scores: Scores) -> Solution:
        table, values = self.losses(problem, scores), scores.values
        policy = exact(problem, table)
        problem.checkpoint(policy)
        total = math.fsum(table[n][b.weight, b.act] for n, b in policy.items())  # type: ignore[index]
        notes = {
            "importance": total,
            "outliers": {
                kind: {name: bits for name, row in values[kind].items() if (bits := outliers(row))}
                for kind in ("weight", "act")
            },
            "moved": values["moved"],
            "learning": values["learning"],
        }
        return Solution(policy, notes=notes)


def settle(parameters: list[nn.Parameter]) -> None:
    """Clip the gradients' values; a parameter whose gradient is all zero is not touched at all."""
    nn.utils.clip_grad_value_(parameters, CLIP)
    there = [p for p in parameters if p.grad is not None]
    # All of them in one answer, as each would make a device wait.
    used = torch.stack([p.grad.any() for p in there]).tolist() if there else []  # type: ignore[union-attr]
    for parameter, some in zip(there, used, strict=True):
        if not some:
            parameter.grad = None


def _moved(quantizers: Mapping[str, Indicators]) -> float:
    return math.fsum(q.moved() for q in quantizers.values()) / len(quantizers)


def _plain(row: Mapping[int, float]) -> dict[str, float]:
    return {str(bits): value for bits, value in row.items()}
