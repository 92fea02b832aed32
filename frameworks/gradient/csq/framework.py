"""CSQ: Growing Mixed-Precision Quantization Scheme with Bi-level Continuous Sparsification.

Xiao, Yang, Dong, Keutzer, Du and Zhang, DAC 2023, arXiv 2212.02770; released code lawsonX/CSQ.

- Bit values and bit masks, both relaxed by sigmoids of a common temperature T (bi-level continuous
  sparsification), with no rounding and no straight-through gradients:
      W = s sum_b (sigmoid(T p_b) - sigmoid(T n_b)) sigmoid(T M_b) 2^b / (2^n - 1).
  p_b and n_b are one number for each bit of a weight, M_b for each bit of a layer.
- Temperature growth: T = 200^(e / E) in epoch e of E, so that the sigmoids end as steps: W is then
  quantized exactly, at as many bits as the masks keep.
- Budget-aware regularization (the released code; the paper's equation 4 by its comment):
      L = CE + lambda (r - r_T) sum_l sum_b m_{l,b},
  r the share that is kept, counted hard, r_T that of the budget: above it masks are pulled down,
  below it up, so that precision grows again and one search ends at the budget.
- Afterwards the masks are fixed, and the bits of the planes that are left fine-tuned with T
  growing from 1 once more. Then neither bits nor clips of activations have weight decay, and clips
  learn at the full rate; the release decays all but the masks.

Shorter searches (the released CIFAR example takes some 117,000 steps of 0.1): a mask has to move by
a few hundredths from 0 for T = 200 to decide it, a bit by half: raise ``mask_lr`` and ``plane_lr``
until they can, and lambda until r ends near r_T. The notes have how undecided the masks were after
each epoch, and r. From a pretrained start the objective need not fall, as growing T hardens bits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from frameworks.core.card import Card
from frameworks.core.evaluation.train import Recipe, cross_entropy
from frameworks.core.framework import Framework
from frameworks.core.networks.qmodel import QModel
from frameworks.core.problem import Problem
from frameworks.core.registry import register
from frameworks.core.search.course import Course
from frameworks.core.solution import Solution
from frameworks.core.supernets.activations import affordable_activations
from frameworks.core.supernets.placed import PlacedNet
from frameworks.gradient.csq.network import growing, planes_of, planter, replant, settle
from frameworks.gradient.csq.planes import ContinuousPlanes
from frameworks.gradient.csq.precision import Precision

FINAL = 200.0
"""The temperature of the last epoch."""


def temperature(epoch: int, epochs: int) -> float:
    """``200^(e / E)`` in epoch e = ``epoch`` + 1 of E; ``epoch`` counts from 0."""
    exponent = (epoch + 1) / epochs
    return float(FINAL**exponent)


@register
@dataclass
class CSQ(Framework):
    """Bit planes and their number behind sigmoids that grow steep, pulled to the budget.

    Attributes:
        epochs: passes over the training images, E.
        warmup: epochs in which the learning rate rises; then it falls as a cosine.
        images: training images an epoch; None for all.
        batch: batch size.
        lr: learning rate of scales and of all else that has none of its own.
        plane_lr: learning rate of the bits' logits, relative to ``lr``; 1 as published.
        mask_lr: learning rate of the masks' logits, relative to ``lr``; 1 as published.
        lam: weight of the regularization, lambda.
        weighted: whether a mask counts by what its plane costs; as 1 in the released code.
        act_bits: activation bits of all layers; fewer where the budget asks for it (see the card).
        weight_decay: of all that trains but masks and activation ranges.
        range_lr: learning rate of learned activation ranges, relative to ``lr``.
        augment: whether images are augmented as the dataset says.
        prune: whether a layer without planes has 0 bits, where the protocol trains.
    """

    name: ClassVar[str] = "csq"
    card: ClassVar[Card] = Card(
        title="CSQ: Growing Mixed-Precision Quantization Scheme with Bi-level Continuous "
        "Sparsification",
        year=2023,
        category="gradient",
        quantizer="bsq",
        quantization=("bit planes",),
        granularity="layer",
        searches=("weight",),
        needs=frozenset({"calibration", "train"}),
        arxiv="2212.02770",
        venue="DAC 2023",
        deviations=(
            "starts from the pretrained network's bits with a logit of 1/2 on either side of 0; "
            "the release starts from random weights with logits 0 and 1, of which 0 stays half a "
            "bit at every temperature until it is trained",
            "the scale changes with the temperature so that the weights keep their norm, from the "
            "pretrained one on; the release leaves that to BatchNorm, which not every network has",
            "r and r_T are costs on the target relative to all planes, and masks weigh in the sum "
            "by what their planes cost (weighted=False: equally); the release counts masks alone",
            "a layer's bits count the sign, and all planes from its lowest to its highest kept "
            "one: an integer with a hole in its mask has as many bits; the release counts masks",
            "at the end the masks are cut not at 0 but at the logit at which the budget is just "
            "met; the release reports what the cut at 0 gives. In short searches from a pretrained "
            "network r ends above r_T (8 epochs of 352 images: by 35 to 46 % with lambda 0.01, by "
            "16 to 30 % with 0.06, whose policies were a point worse)",
            "masks have no weight decay, which would pull them to undecided, as in the parent "
            "method (Continuous Sparsification); the release decays all with one rate",
            "activation bits, which the paper sets by hand, are where the target prices them the "
            "most up to act_bits at which the uniform policy of equal bits is within the budget "
            "(2 on digits at like=2.4, where policies with 3 in some layers are a point better); "
            "where bits are paired they are the most in the search, and follow the weights' after",
            "a layer without planes gets its fewest bits and not 0 where the protocol does not "
            "train, or without prune; bits that are no candidate are raised to the next",
            "fine-tuning is that of the released code up to November 2022, T growing once more "
            "with the masks fixed, over 200 epochs; the present code ends with five epochs at the "
            "temperature reached. Planes left out between two kept ones may be used again",
            "pinned layers have no planes; biases, which the release quantizes in its last layer, "
            "are float. Activation ranges are the protocol's, learned at a tenth of the rate",
            "fixed-bit quantizers are BSQ's, with which the released code agrees: signed "
            "magnitudes up to max|W|, activations by the batch's maximum, PACT up to 3 bits",
        ),
    )
    lowers_bits: ClassVar[bool] = True
    searches_weights: ClassVar[bool] = True
    recipe: ClassVar[Recipe | None] = Recipe(
        epochs=200, batch=256, lr=0.1, range_lr=1.0, weight_decay=5e-4, augment=True
    )

    epochs: int = 595
    warmup: int = 5
    images: int | None = None
    batch: int = 256
    lr: float = 0.1
    plane_lr: float = 1.0
    mask_lr: float = 1.0
    lam: float = 0.01
    weighted: bool = True
    act_bits: int = 4
    weight_decay: float = 5e-4
    range_lr: float = 0.1
    augment: bool = True
    prune: bool = True

    def search(self, problem: Problem) -> Solution:
        acts = affordable_activations(problem, self.act_bits)
        precision = Precision(problem, acts, self.prune and problem.retrains, self.weighted)
        net = PlacedNet(problem, planter(problem, precision, acts))
        objective, generator = "cross-entropy + lambda * masks", problem.generator(self.name)
        course = Course(objective, generator, self.batch, self.augment)
        optimizer, undecided, shares = self.optimizer(net, precision), [], []

        for epoch in range(self.epochs):
            problem.progress(epoch, self.epochs, f"relaxed bit planes, lambda {self.lam:.3g}")
            now = temperature(epoch, self.epochs)
            for each in planes_of(net.qmodel).values():
                each.grow(now)
            for group in optimizer.param_groups:
                group["lr"] = group["share"] * self.rate(epoch)

            def loss(model: nn.Module, x: Tensor, y: Tensor, now: float = now) -> Tensor:
                task = cross_entropy(model, x, y)
                return course.step(task, task + self.lam * precision.penalty(now))

            course.run(net.qmodel, problem.train, self.images, [optimizer], loss)
            undecided.append(precision.undecided(now))
            shares.append(precision.share())
            problem.checkpoint(precision.policy(precision.fit()))
        return self.solution(net, precision, course, {"undecided": undecided, "share": shares})

    def solution(
        self, net: PlacedNet, precision: Precision, course: Course, found: dict[str, list[float]]
    ) -> Solution:
        """The bits that the masks keep, and the weights that the bits stand for."""
        cut = precision.fit()
        policy, steps = precision.policy(cut), settle(net.qmodel, cut)
        notes = {**found, "cut": cut, "steps": steps, "learning": course.to_json()}
        return Solution(policy, net.qmodel.float_state(), notes=notes, cross_entropy=course.last)

    def finish(self, problem: Problem, solution: Solution) -> QModel:
        """Fine-tune the bits of the planes that are left, with T growing once more."""
        recipe, images = problem.recipe, len(problem.train)
        steps = math.ceil(min(recipe.images or images, images) / recipe.batch)
        epochs = max(math.ceil(recipe.epochs), 1)
        schedule = [temperature(epoch, epochs) for epoch in range(epochs)]
        planes: list[ContinuousPlanes] = []

        def prepare(qmodel: QModel) -> None:
            replant(qmodel, solution.notes["steps"])
            planes.extend(planes_of(qmodel).values())

        return problem.fine_tune(
            solution.policy,
            weights=solution.weights,
            prepare=prepare,
            loss=growing(planes, schedule, steps),
        )

    def rate(self, epoch: int) -> float:
        """The learning rate of an epoch, from 0: rising to ``lr``, then a cosine."""
        if epoch < self.warmup:
            return self.lr * (epoch + 1) / self.warmup
        return self.lr * 0.5 * (1 + math.cos(math.pi * (epoch - self.warmup) / self.epochs))

    def optimizer(self, net: PlacedNet, precision: Precision) -> torch.optim.Optimizer:
        """SGD over bits, masks, activation ranges and all else, at ``share`` of an epoch's rate."""
        planes = planes_of(net.qmodel).values()
        bits = [each.logits for each in planes]
        masks, scales = list(precision.masks.values()), [each.scale for each in planes]
        ranges = net.ranges_beside((*bits, *masks, *scales))
        groups = [
            {"params": bits, "weight_decay": self.weight_decay, "share": self.plane_lr},
            {"params": masks, "weight_decay": 0.0, "share": self.mask_lr},
            {"params": ranges, "weight_decay": 0.0, "share": self.range_lr},
            {
                "params": [*net.qmodel.weight_parameters(), *scales],
                "weight_decay": self.weight_decay,
                "share": 1.0,
            },
        ]
        return torch.optim.SGD(groups, lr=self.lr, momentum=0.9)
