"""Differentiable Joint Pruning and Quantization for Hardware Efficiency (DJPQ).

Wang, Lu and Blankevoort, ECCV 2020, arXiv 2007.10463; no released code is known. The formulas are
from memory of the paper, checked against code that names it as its source (microsoft/geta) and
against the code of its pruning method (zhuchen03/VIBNet).

- Non-linear quantizer with learned step d, range q_m and exponent t, whose bits follow from them
  (`frameworks.gradient.djpq.power`): b = ceil(log2(q_m^t / d + 1)) + 1. Weights have an exponent.
- Structured pruning by a variational information bottleneck
  (`frameworks.gradient.djpq.bottleneck`): a channel's output is multiplied by N(mu, sigma^2) and
  is pruned if mu^2 / sigma^2 is below a threshold.
- One loss for weights, gates and quantizers:
      L = CE + gamma L_VIB + beta L_BOP,
      L_BOP = log sum_l r_l MACs_l b_w,l b_a,l,   r_l = mean_i sigmoid((log ratio_i - log th) / 0.1)
  with bits before rounding up and shares r of channels kept, so that a layer gets cheaper by fewer
  bits and by fewer channels, whichever costs less accuracy.
- DJPQ-restrict: bits are rounded to powers of two in every forward pass.
- Channels and bits are then fixed and the network is fine-tuned (20 and 10 epochs on ImageNet).

Shorter searches: Adam moves log d and log q_m by about ``quantizer_lr`` a step, so that bits fall
by at most 2.9 ``quantizer_lr`` a step, and log sigma^2 by ``gate_lr``, which has 16 to go until a
channel is pruned. A search in which no tensor can lose a bit is refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean
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
from frameworks.gradient.djpq.bottleneck import hold_pruned
from frameworks.gradient.djpq.jointnet import JointNet, reachable
from frameworks.gradient.djpq.power import PowerQuantizer, soft_bits


@register
@dataclass
class DJPQ(Framework):
    """Learned bits and gates on output channels under one loss.

    Attributes:
        epochs: passes over the training images.
        images: training images an epoch; None for all.
        batch: batch size.
        lr: learning rate of the weights (SGD with momentum 0.9).
        quantizer_lr: learning rate of steps, ranges and exponents (Adam on their logarithms).
        gate_lr: learning rate of the gates (Adam).
        beta: weight of the cost's logarithm.
        gamma: weight of the gates' information, relative to where it starts.
        threshold: mu^2 / sigma^2 below which a channel is pruned.
        restrict: whether bits are powers of two (DJPQ-restrict).
        prune: whether output channels have gates, where the target prices channels apart and the
            protocol trains.
        augment: whether images are augmented as the dataset says.
    """

    name: ClassVar[str] = "djpq"
    card: ClassVar[Card] = Card(
        title="Differentiable Joint Pruning and Quantization for Hardware Efficiency",
        year=2020,
        category="gradient",
        quantizer="djpq",
        quantization=("learned range",),
        granularity="layer",
        searches=("weight", "act"),
        needs=frozenset({"calibration", "train"}),
        arxiv="2007.10463",
        venue="ECCV 2020",
        hardware_aware=True,
        deviations=(
            "not found, and chosen here: the form of L_BOP, the soft count of channels, gamma 0.1 "
            "on L_VIB divided by its start, first bits 8, learning rates and optimizers, a cosine "
            "schedule, weights' gradient 1 within the range, t = 1 for activations",
            "the threshold of 1e-3 on mu^2 / sigma^2 is quoted from memory; VIBNet's is 1",
            "beta is adjusted to meet the budget; the paper sweeps it",
            "d and q_m are trained as logarithms by Adam, so that one rate fits all tensors, and t "
            "within 1/2 to 2, as beyond the cost's gradient made it run away (to 25 in 24 steps)",
            "L_BOP has the cost of the budget's metric at bits between candidates where that is a "
            "sum over layers; for BOPs this is the same",
            "gates stand directly behind BatchNorm and before the activation function, where mu "
            "folds into it exactly; layers without such a BatchNorm, pinned ones and shared "
            "weights are not pruned",
            "a pruned output channel is not counted out of the next layer's inputs, as no target "
            "here counts it out",
            "under other quantizers than the paper's, bits are learned in units of the protocol's "
            "range of each output channel and without an exponent, which the protocol has not",
            "where the protocol does not train, weights are kept and nothing is pruned",
            "bits are rounded up to candidates; tied layers, and weights and activations of "
            "paired spaces, get the most of theirs; 1 bit of signed data and float are not reached",
            "pinned tensors keep their ranges during the search under other quantizers than the "
            "paper's",
            "gates' means are put into BatchNorm, which fine-tuning trains on; codes end there at "
            "the largest that the bits have",
        ),
    )
    strength: ClassVar[str | None] = "beta"
    close: ClassVar[float] = 0.9
    lowers_bits: ClassVar[bool] = True
    searches_choices: ClassVar[bool] = True
    recipe: ClassVar[Recipe | None] = Recipe(
        epochs=10, batch=128, lr=1e-3, schedule="cosine", weight_decay=1e-4, augment=True
    )

    epochs: int = 20
    images: int | None = None
    batch: int = 128
    lr: float = 3e-3
    quantizer_lr: float = 3e-4
    gate_lr: float = 3e-3
    beta: float = 0.1
    gamma: float = 0.1
    threshold: float = 1e-3
    restrict: bool = False
    prune: bool = True
    augment: bool = True

    def validate(self) -> None:
        super().validate()
        if not 0 < self.threshold <= 1:
            raise ValueError(f"threshold = {self.threshold}: must be above 0 and at most 1")

    def skip(self, problem: Problem) -> str | None:
        for choice in problem.space.choices:
            if not reachable(choice.bits, True, self.restrict):
                some = "2, 4, 8 or 16" if self.restrict else "2 to 16"
                return f"{self.name} needs {some} among the bits, not {choice.bits}"
        return super().skip(problem)

    def search(self, problem: Problem) -> Solution:
        self.check_reach(problem)
        prunes = self.prune and problem.retrains and problem.target.per_channel
        net = JointNet(problem, self.restrict, self.threshold, prunes)
        optimizers = self.optimizers(problem, net)
        schedules = [torch.optim.lr_scheduler.CosineAnnealingLR(o, self.epochs) for o in optimizers]
        generator = problem.generator(self.name)
        objective = "cross-entropy + gamma * information + beta * log cost"
        course = Course(objective, generator, self.batch, self.augment)
        penalty = self.penalty(net)

        def loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
            task = cross_entropy(model, x, y)
            return course.step(task, task + penalty())

        bits, moves, pruned = _bits(net), [], []
        for epoch in range(self.epochs):
            problem.progress(epoch, self.epochs, f"joint pruning and bits, beta {self.beta:.3g}")
            course.run(net.qmodel, problem.train, self.images, optimizers, loss, net.keep_within)
            for schedule in schedules:
                schedule.step()
            problem.checkpoint(net.policy())
            before, bits = bits, _bits(net)
            moves.append(fmean(abs(a - b) for a, b in zip(before, bits, strict=True)))
            pruned.append(net.pruned())
        policy = net.policy()
        net.fold()
        notes = {
            **{"beta": self.beta, "gamma": self.gamma, "quantizers": net.learned()},
            **{"bits moved": moves, "pruned": pruned, "norms": net.norms},
            "learning": course.to_json(),
        }
        weights = net.qmodel.float_state()
        return Solution(policy, weights, notes=notes, cross_entropy=course.last)

    def penalty(self, net: JointNet) -> Callable[[], Tensor]:
        """What is added to the cross-entropy, from where the cost and the information start."""
        cost, information = net.cost().detach(), net.information().detach()

        def added() -> Tensor:
            total = self.beta * (net.cost() / cost).log()
            if net.gates:
                total = total + self.gamma * net.information() / information
            return total

        return added

    def check_reach(self, problem: Problem) -> None:
        """Refuse a search that is too short for any tensor to lose a bit, whatever beta is.

        Raises:
            ValueError: with how far Adam moves bits.
        """
        images = len(problem.train)
        steps = math.ceil(min(self.images or images, images) / self.batch)
        rates = sum(0.5 + 0.5 * math.cos(math.pi * e / self.epochs) for e in range(self.epochs))
        reach = 2 / math.log(2) * self.quantizer_lr * steps * rates
        if 0 < reach < 1:
            raise ValueError(
                f"{self.name}: no tensor can lose a bit: in {self.epochs} epochs of {steps} steps "
                f"Adam moves bits by {reach:.3g}: raise quantizer_lr above "
                f"{self.quantizer_lr / reach:.2g}"
            )

    def optimizers(self, problem: Problem, net: JointNet) -> list[torch.optim.Optimizer]:
        """Of quantizers, of gates, and of weights where the protocol trains."""
        found: list[torch.optim.Optimizer] = [
            torch.optim.Adam(net.quantizer_parameters(), lr=self.quantizer_lr)
        ]
        if gates := net.gate_parameters():
            found.append(torch.optim.Adam(gates, lr=self.gate_lr))
        if problem.retrains:
            weights = net.qmodel.weight_parameters()
            found.append(torch.optim.SGD(weights, self.lr, momentum=0.9))
        return found

    def finish(self, problem: Problem, solution: Solution) -> QModel:
        """Fine-tune weights and quantizers of the search with channels and bits as decided."""

        def keep(qmodel: QModel) -> None:
            for name, parts in solution.notes["quantizers"].items():
                q = qmodel.qlayer(name)
                for part, values in zip((q.weight_quantizer, q.act_quantizer), parts, strict=True):
                    for module in part.modules():
                        if isinstance(module, PowerQuantizer) and values is not None:
                            module.put(*values)
            hold_pruned(qmodel, solution.policy, solution.notes["norms"])

        return problem.fine_tune(solution.policy, weights=solution.weights, prepare=keep)


def _bits(net: JointNet) -> list[float]:
    found: list[float] = soft_bits([quantizer for _, quantizer in net.tensors]).tolist()
    return found
