"""GMPQ: Generalizable Mixed-Precision Quantization via Attribution Rank Preservation.

Wang, Xiao, Lu and Zhou, ICCV 2021, arXiv 2108.02720; released code ZiweiWangTHU/GMPQ.

- The policy is searched on a small data set and serves a large one: what carries over is where
  the network looks. A float network of the same architecture is trained on the small set first.
- Super net: EdMIPS's composite convolutions (arXiv 2004.05795) over the bits of every layer.
- Loss: CE + w_A L_A + eta L_C. L_A (`frameworks.gradient.gmpq.attribution`) holds the quantized
  network's attributions of its last stage against those of the float network, to a power p that
  grows as bits fall: ranks are kept, and the fewer bits, the more of the weight is on the top. L_C
  is EdMIPS's, sum_l S_l E[b_w] E[b_a] / S_1, at the target's image size.
- Weights and alpha step together, each by SGD (momentum 0.9, weight decay 1e-4), at rates that
  are multiplied by 0.1 every ``step`` epochs; the policy is the argmax of every alpha.
- The policy is then trained on the large data set.

``source`` names the small data set (digits, or any that there is). Without one the search sees a
small part of the target's own training images: ``images`` of them, drawn once.

Shorter searches: as for EdMIPS, the released recipe takes thousands of steps of 0.01; raise
``alpha_lr`` as there are fewer, and set ``step`` to 0.4 of ``epochs``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from frameworks.core.card import Card
from frameworks.core.evaluation.train import Recipe, cross_entropy
from frameworks.core.framework import Framework
from frameworks.core.problem import Problem
from frameworks.core.registry import register
from frameworks.core.search.course import Course
from frameworks.core.solution import Solution
from frameworks.core.split import Split
from frameworks.core.supernets.composite_search import chosen, complexity, optimizers_of
from frameworks.core.supernets.relaxations import Choices
from frameworks.core.supernets.supernet import CompositeNet
from frameworks.gradient.gmpq.attribution import (
    Attributed,
    adaptive_power,
    last_stage,
)

ALPHA_START = 0.01
POSITIONS = 16
"""Positions of the released network's last maps, to which w_A belongs."""


@register
@dataclass
class GMPQ(Framework):
    """Composite layers that keep the float network's attributions, on another data set.

    Attributes:
        source: the data set that is searched on; empty for a part of the target's own images.
        epochs: passes over the images.
        images: without a source, the images that are searched on; with one, those of an epoch.
            None for all.
        batch: batch size.
        lr: learning rate of the weights.
        alpha_lr: learning rate of the logits.
        step: epochs after which both learning rates are multiplied by 0.1.
        attribution: w_A, at 16 positions; at others in proportion, so that an angle counts alike.
        power: p; 0 for the one that follows the bits.
        eta: weight of the complexity penalty.
        weight_decay: of weights and logits.
        range_lr: learning rate of learned quantization ranges, relative to ``lr``.
        augment: whether images are augmented as the dataset says.
    """

    name: ClassVar[str] = "gmpq"
    card: ClassVar[Card] = Card(
        title="Generalizable Mixed-Precision Quantization via Attribution Rank Preservation",
        year=2021,
        category="gradient",
        quantizer="haq_linear",
        quantization=("deterministic rounding", "learned range"),
        granularity="layer",
        searches=("weight", "act"),
        needs=frozenset({"calibration", "train", "separable_cost"}),
        arxiv="2108.02720",
        venue="ICCV 2021",
        hardware_aware=True,
        deviations=(
            "without a source data set the search sees a small part of the target's own training "
            "images, all classes: a policy that carries over to more images, not to others",
            "eta is adjusted to meet the budget; the release sets it by hand (3e-4)",
            "the penalty is the target's table at the target's image size (for bit operations the "
            "paper's product); the release counts at the size in use. Pinned layers are a constant",
            "the power follows the bits, as in the release with pnorm 0; its default is 3 (power)",
            "w_A is 40 at the release's 4x4 maps and is scaled by positions / 16 elsewhere",
            "the float network is frozen in eval mode; the release leaves it in training mode",
            "the gradient of g_c is taken where no searched layer lies behind the maps, as in the "
            "released network; elsewhere g_c is a constant",
            "the network's own order of layers and its ReLUs are kept (maps are positive); the "
            "release normalises inputs, and its quantized blocks end without ReLU",
            "starts from the pretrained network; the release's super net starts from scratch",
            "ranges are calibrated for search and training, by divergence below 5 bits, as the "
            "release does for training; its search starts from max|W| and 6. They are learned at "
            "a tenth of the rate",
            "tied layers share one alpha; in spaces with equal weight and activation bits one "
            "alpha decides both",
            "batches of the final training are the protocol's recipe's where it bounds it",
        ),
    )
    strength: ClassVar[str | None] = "eta"
    close: ClassVar[float] = 0.9
    searches_choices: ClassVar[bool] = True
    recipe: ClassVar[Recipe | None] = Recipe(
        epochs=100, batch=576, lr=0.01, schedule="cosine", weight_decay=4e-5, augment=True
    )

    source: str = ""
    epochs: int = 25
    images: int | None = None
    batch: int = 256
    lr: float = 0.1
    alpha_lr: float = 0.01
    step: int = 10
    attribution: float = 40.0
    power: float = 0.0
    eta: float = 3e-4
    weight_decay: float = 1e-4
    range_lr: float = 0.1
    augment: bool = True

    def validate(self) -> None:
        super().validate()
        for name in ("attribution", "power"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} = {getattr(self, name)}: must not be negative")

    def skip(self, problem: Problem) -> str | None:
        if (reason := super().skip(problem)) is not None:
            return reason
        if last_stage(problem.source or problem) is None:
            return f"{self.name} needs feature maps of several positions before the last layer"
        return None

    def search(self, problem: Problem) -> Solution:
        small = (problem.source or problem).at(meter=problem.meter)
        generator = problem.generator(self.name)
        part: Split = small.train
        if problem.source is None and self.images is not None:
            part = part.subset(self.images, generator)
        choices = Choices([len(c.bits) for c in problem.space.choices], start=ALPHA_START)
        choices, cost = choices.to(problem.device), complexity(problem).to(problem.device)
        net = CompositeNet(small)
        pair, weight = Attributed(small, net), self.attribution / POSITIONS
        optimizers = optimizers_of(
            net,
            choices,
            lr=self.lr,
            alpha_lr=self.alpha_lr,
            weight_decay=self.weight_decay,
            range_lr=self.range_lr,
        )
        decay = [torch.optim.lr_scheduler.StepLR(o, self.step, 0.1) for o in optimizers]
        objective = "cross-entropy + w_A * attribution distance + eta * complexity"
        course = Course(objective, generator, self.batch, self.augment)
        apart: list[float] = []

        def loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
            p = choices.probabilities()
            net.mix(p)
            task = cross_entropy(model, x, y)
            away = pair.distance(x, self.power or adaptive_power(small.space, p))
            apart.append(float(away.detach()))
            return course.step(task, task + weight * away + self.eta * cost(p))

        for epoch in range(self.epochs):
            problem.progress(epoch, self.epochs, f"attributions, eta {self.eta:.3g}")
            course.run(pair, part, self.images, optimizers, loss)
            for schedule in decay:
                schedule.step()
            problem.checkpoint(chosen(problem.space, choices))
        policy = chosen(problem.space, choices)
        tenth = max(1, len(apart) // 10)
        notes = {
            "eta": self.eta,
            "source": self.source if problem.source is not None else None,
            "entropy": choices.entropy(),
            "power": self.power or adaptive_power(small.space, choices.probabilities()),
            "attribution": [sum(apart[:tenth]) / tenth, sum(apart[-tenth:]) / tenth],
            "learning": course.to_json(),
        }
        return Solution(policy, notes=notes, cross_entropy=course.last)
