"""FracBits: Mixed Precision Quantization via Fractional Bit-Widths.

Yang and Jin, AAAI 2021, arXiv 2007.02017; released code deJQK/FracBits, which decides where a
summary of the paper leaves something open.

- Fractional bits: every tensor has bits lambda, a trained real number, and is the interpolation of
  its quantizations at the integers around them, with f = lambda - floor(lambda):
      q_lambda(x) = (1 - f) q_floor(x) + f q_ceil(x).
  Layer-wise lambda is one number for a layer's weights and one for its inputs; kernel-wise
  (`FracBitsKernel`) the weights have one for each output channel.
- Cost: bit operations of a layer are interpolated between the four corners around its (lambda_w,
  lambda_a), which is MACs lambda_w lambda_a; sizes are linear.
- Objective: CE + kappa |C(lambda) - C_T|, C in 1e9 bit operations or in MB and kappa = 1. Weights,
  clips and lambda train together by one SGD. All lambda start half a bit above the uniform bits
  that cost C_T; at a whole number, where floor and ceil are one, they would have no gradient.
- Rounding, after four fifths of the training: bits = round(lambda + offset), with the offset in
  [-1, 0] bisected (at most ten trials) until the cost is within 1 % of C_T.
- Fine-tuning, the last fifth: the bits are fixed and the cost term is gone; weights and clips go on
  from where they are, and the learning rate on the rest of its cosine.

Shorter searches (the paper takes some 600,000 steps): raise ``bits_lr`` until lambda moves by a
candidate or more in all; at the weights' learning rate a few passes leave it where it began, and
the policy is the uniform one. With kappa too small for that the cost does not reach C_T, and
rounding takes whole bits off; the notes have ``gap``, |C / C_T - 1| before and after each epoch.
Near C_T the penalty's sign changes from step to step, and a large kappa then moves bits by more
than the loss does, so that layers are ordered by their cost: on digits (ResNet-8, bit operations of
2.4 bits, 64 steps at ``bits_lr`` 100, 3 seeds) kappa 2 finds 0.1 points more with the loss's
gradient than without it, and kappa 0.5 finds 0.5 (5 seeds: 0.7); among all bits from 2 to 8 and not
2, 3, 4 and 8, it finds 0.7 less. So few steps are near the limit of what it can learn from.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
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
from frameworks.core.search.draws import kernels_of
from frameworks.core.solution import Solution
from frameworks.core.supernets.fractional import FractionalCost
from frameworks.core.supernets.placed import PlacedNet
from frameworks.gradient.fracbits.fractional import interpolated, learned_clips
from frameworks.gradient.fracbits.quantizer import CalibratedClip
from frameworks.gradient.fracbits.rounding import hardened

SEARCHED = 121 / 150
"""Share of the whole training, and of its cosine, after which bits are rounded."""


@register
@dataclass
class FracBits(Framework):
    """Real-valued bits of every layer's weights and inputs, trained with the network.

    Attributes:
        epochs: passes over the training images until the bits are rounded.
        warmup: the first of these, without the cost term.
        images: training images an epoch; None for all.
        batch: batch size.
        lr: first learning rate of the weights; it falls along the first four fifths of a cosine.
        bits_lr: learning rate of the bits, relative to ``lr``; 1 as published.
        range_lr: learning rate of learned quantization ranges, likewise.
        kappa: weight of the relative distance from the budget, |C / C_T - 1|.
        extra: bits above those of the uniform policy of the budget's cost that all start with.
        weight_decay: of weight tensors with more than one input channel.
        augment: whether images are augmented as the dataset says.
    """

    name: ClassVar[str] = "fracbits"
    card: ClassVar[Card] = Card(
        title="FracBits: Mixed Precision Quantization via Fractional Bit-Widths",
        year=2021,
        category="gradient",
        quantizer="fracbits",
        quantization=("learned range",),
        granularity="layer",
        searches=("weight", "act"),
        needs=frozenset({"calibration", "train", "separable_cost"}),
        arxiv="2007.02017",
        venue="AAAI 2021",
        hardware_aware=True,
        deviations=(
            "kappa weighs |C / C_T - 1|, as a published unit (1e9 bit operations, MB) means "
            "something else on every network; the published 1 is kappa = C_T in that unit, 3.3 to "
            "34.7 in its configurations, of which the default is ResNet-18's at 3 bits",
            "no rounding over the limit is taken, where the released code ends up to 1 % above it "
            "or at the last offset unchecked; where an offset of -1 is not enough, the range is "
            "doubled, and where 0 leaves more than 1 % of the budget, offsets up to 1 are tried: "
            "in a network of few layers the errors of rounding do not cancel",
            "candidates with gaps between them (4, 8) are interpolated between neighbours",
            "bits are put back into their range after each step; the released code clamps them in "
            "use, and a number outside has no gradient any more. At a candidate the slope is that "
            "of the interval above it",
            "the offset holds for all layers; the released code leaves out the classifier's inputs",
            "clips start from the calibration sample and not at 8, and DoReFa's weights are "
            "multiplied by max|w|: the search starts from a pretrained network as the paper's "
            "does, but may be short. Under other quantizers every bit width has its own range",
            "the plain variant: SAT's rescaled classifier is left out, which is pinned here as a "
            "rule; the choice by Gumbel samples of one neighbour, an option of the released code, "
            "too",
            "fine-tuning has a cosine of its own from where the search's ended, decays all weights "
            "of more than one dimension, and has no Nesterov momentum; kernels of equal bits are "
            "normalised together, in the search and as released all of a layer",
            "tied layers share their bits, and so do weights and activations in spaces of equal "
            "bits; there, and where tied layers have different widths, a layer is one kernel",
        ),
    )
    lowers_bits: ClassVar[bool] = True
    searches_choices: ClassVar[bool] = True
    recipe: ClassVar[Recipe | None] = Recipe(
        epochs=29, batch=256, lr=0.0045, range_lr=1.0, weight_decay=4e-5, augment=True
    )

    epochs: int = 121
    warmup: int = 0
    images: int | None = None
    batch: int = 256
    lr: float = 0.05
    bits_lr: float = 1.0
    range_lr: float = 1.0
    kappa: float = 22.83
    extra: float = 0.5
    weight_decay: float = 4e-5
    augment: bool = True

    def search(self, problem: Problem) -> Solution:
        cost = FractionalCost(problem)
        bits = self.start(problem, cost.uniform() + self.extra)
        net = PlacedNet(problem, partial(interpolated, problem, bits))
        optimizer, schedule = self.optimizer(problem, net, bits)
        objective, generator = (
            "cross-entropy + kappa * |cost - target|",
            problem.generator("fracbits"),
        )
        course = Course(objective, generator, self.batch, self.augment)
        gap = [distance(cost, bits)]

        def loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
            task = cross_entropy(model, x, y)
            weight = self.kappa if course.passes > self.warmup else 0.0
            return course.step(task, task + weight * (cost(bits).max() - 1).abs())

        def after_step() -> None:
            schedule.step()
            for choice, each in zip(problem.space.choices, bits, strict=True):
                each.data.clamp_(choice.bits[0], choice.bits[-1])

        for epoch in range(self.epochs):
            problem.progress(epoch, self.epochs, "fractional bits")
            course.run(net.qmodel, problem.train, self.images, [optimizer], loss, after_step)
            policy, offset = hardened(problem, bits)
            problem.checkpoint(policy)
            gap.append(distance(cost, bits))
        notes = {
            "offset": offset,
            "gap": gap,
            "clips": learned_clips(net),
            "learning": course.to_json(),
        }
        return Solution(policy, net.qmodel.float_state(), notes=notes, cross_entropy=course.last)

    def start(self, problem: Problem, bits: float) -> list[nn.Parameter]:
        """The bits of each of the space's choices, as near to these as its candidates reach."""
        return [
            nn.Parameter(
                torch.full(
                    (kernels,) if (kernels := self.kernels(problem, row)) > 1 else (),
                    float(min(max(bits, choice.bits[0]), choice.bits[-1])),
                    device=problem.device,
                )
            )
            for row, choice in enumerate(problem.space.choices)
        ]

    def kernels(self, problem: Problem, row: int) -> int:
        """How many bits of its own a choice has."""
        return 1

    def optimizer(
        self, problem: Problem, net: PlacedNet, bits: Sequence[nn.Parameter]
    ) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
        """SGD over all that is trained, and the part of its cosine that the search goes along."""
        weights, ranges = net.qmodel.weight_parameters(), net.ranges_beside(bits)
        decayed = [p for p in weights if p.dim() > 1 and p.shape[1] > 1]
        rest = [p for p in weights if p.dim() < 2 or p.shape[1] == 1]
        groups = [
            {"params": decayed, "lr": self.lr, "weight_decay": self.weight_decay},
            {"params": rest, "lr": self.lr},
            {"params": ranges, "lr": self.lr * self.range_lr},
            {"params": list(bits), "lr": self.lr * self.bits_lr},
        ]
        optimizer = torch.optim.SGD([g for g in groups if g["params"]], momentum=0.9, nesterov=True)
        images = len(problem.train)
        steps = self.epochs * math.ceil(min(self.images or images, images) / self.batch)
        rate = Recipe(schedule="cosine").rate
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: rate(SEARCHED * step / steps)
        )
        return optimizer, schedule

    def finish(self, problem: Problem, solution: Solution) -> QModel:
        """Go on with the weights and clips of the search at the fixed bits."""

        def keep_clips(qmodel: QModel) -> None:
            for name, clip in solution.notes["clips"].items():
                quantizer = qmodel.qlayer(name).act_quantizer
                if isinstance(quantizer, CalibratedClip):
                    quantizer.alpha.data.fill_(clip)

        return problem.fine_tune(solution.policy, weights=solution.weights, prepare=keep_clips)


@register
@dataclass
class FracBitsKernel(FracBits):
    """FracBits with bits of its own for every output channel of a weight."""

    name: ClassVar[str] = "fracbits_kernel"
    card: ClassVar[Card] = replace(FracBits.card, granularity="kernel")

    def kernels(self, problem: Problem, row: int) -> int:
        return kernels_of(problem.layers, problem.space.choices[row])


@torch.no_grad()
def distance(cost: FractionalCost, bits: Sequence[Tensor]) -> float:
    """``|C / C_T - 1|``."""
    return abs(float(cost(bits).max()) - 1)
