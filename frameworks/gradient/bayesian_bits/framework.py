"""Bayesian Bits: Unifying Quantization and Pruning.

van Baalen, Louizos, Nagel, Amjad, Wang, Blankevoort and Welling, NeurIPS 2020, arXiv 2005.07093;
released code Qualcomm-AI-research/BayesianBits.

- Nested residual quantization (section 2.1, equations 1 to 6): every doubling of the bits adds the
  rounded residual of the level below, each behind a gate,
      x_q = z_2 (x_2 + z_4 (e_4 + z_8 (e_8 + z_16 (e_16 + z_32 e_32)))).
  z_4 and up are one gate a tensor; z_2 is one gate per output channel of a weight: 0 bits, pruned.
- Gates (section 2.2): hard-concrete, sampled anew in every forward pass. P(z > 0) has the closed
  form q = sigmoid(phi - tau log(-gamma / zeta)). A level whose phi is below -2 is shut, and with
  it all above.
- Objective: the KL divergence to an autoregressive prior that shuts gates amounts to
      CE + mu sum_k R_k,   R_k = (1/G) sum_g [B_2 q_2 + B_4 q_2 q_4 + B_8 q_2 q_4 q_8 + ...]
  over all quantizers k with G channel gates, B_b = b MACs_k / max MACs, so that a gate pays for the
  bit operations it lets through.
- Weights, ranges and gates train together, each with an optimizer of its own.
- At the end a gate is open if P(z = 0) < 0.34 (section 2.2); gates are then fixed and weights and
  ranges fine-tuned. Without training (section 4.2) gates and ranges are learned, weights stay.

Shorter searches: Adam moves a logit by about ``gate_lr`` a step, and from ``start`` it has 6.9 to
go until the gate is shut. A search in which it cannot get there is refused; for most gates to
settle, ``gate_lr`` * steps should be some times as much. The notes say how many have.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from frameworks.core.card import Card
from frameworks.core.evaluation.train import Recipe, cross_entropy
from frameworks.core.framework import Framework
from frameworks.core.networks.qmodel import QModel
from frameworks.core.problem import Problem
from frameworks.core.quantizers.base import Quantizer
from frameworks.core.registry import register
from frameworks.core.search.course import Course
from frameworks.core.solution import Solution
from frameworks.core.supernets.gates import HardConcrete, nested_cost
from frameworks.gradient.bayesian_bits.gatednet import GatedNet
from frameworks.gradient.bayesian_bits.residual import LEVELS, RangeQuantizer

SHUT = -6.0
"""First logit of the 32-bit gate."""
CUT = -2.0
"""Logit below which a level and all above it are left out while training."""
THRESHOLD = 0.34
"""A gate is open at the end if its probability of being 0 is below this."""


@register
@dataclass
class BayesianBits(Framework):
    """Hard-concrete gates on the levels of residual quantizers and on output channels.

    Attributes:
        epochs: passes over the training images.
        images: training images an epoch; None for all.
        batch: batch size.
        lr: learning rate of the weights (SGD with Nesterov momentum 0.9).
        gate_lr: learning rate of the gates' logits (Adam).
        range_lr: learning rate of the quantization ranges (Adam).
        step: epochs after which all three are multiplied by 0.1.
        mu: weight of the gates' penalty.
        start: first logit of all gates but the 32-bit one.
        prune: whether output channels have gates, where the target prices channels apart and the
            protocol trains.
        augment: whether images are augmented as the dataset says.
    """

    name: ClassVar[str] = "bayesian_bits"
    card: ClassVar[Card] = Card(
        title="Bayesian Bits: Unifying Quantization and Pruning",
        year=2020,
        category="gradient",
        quantizer="bayesian_bits",
        quantization=("learned range",),
        granularity="layer",
        searches=("weight", "act"),
        needs=frozenset({"calibration", "train"}),
        arxiv="2005.07093",
        venue="NeurIPS 2020",
        hardware_aware=True,
        deviations=(
            "mu is adjusted to meet the budget; the paper sweeps it",
            "levels are the powers of two among the space's candidates; 16 and 32 bits take part "
            "only where the space has them",
            "under quantizers that do not share one range the residual of a level is the "
            "difference between the protocol's quantizers at successive bits; on the paper's "
            "nested grids the two agree",
            "the paper's B_b counts multiply-accumulates; on targets whose cost is a sum over "
            "layers their cost at the most bits takes the place, which for BOPs is the same",
            "activation quantizers sit at the inputs of layers, one a layer; the paper's sit at "
            "outputs and are shared by all consumers",
            "a pruned output channel is not counted out of the next layer's inputs: after "
            "BatchNorm it is a constant and not zero, and residual sums fill it again",
            "where the protocol does not train, weights are kept and gates and ranges are "
            "learned without pruning, after the paper's post-training experiment (quoted from "
            "memory)",
            "BatchNorm stays a layer of its own; the released code folds it into the weights, and "
            "quantizes and prunes these",
            "first ranges of activations are those of the protocol's calibration images; the "
            "released code takes them from a few images",
            "fine-tuning trains ranges by the recipe's SGD; the released code by Adam at 1e-4",
            "pinned layers keep their bits and have no gates; tied layers share the gates of "
            "their bits, and so do weights and activations in spaces of equal bits",
        ),
    )
    strength: ClassVar[str | None] = "mu"
    close: ClassVar[float] = 0.9
    lowers_bits: ClassVar[bool] = True
    searches_choices: ClassVar[bool] = True
    recipe: ClassVar[Recipe | None] = Recipe(
        epochs=10, batch=384, lr=1e-4, schedule="cosine", weight_decay=0.0, augment=True
    )

    epochs: int = 30
    images: int | None = None
    batch: int = 384
    lr: float = 3e-3
    gate_lr: float = 1e-3
    range_lr: float = 1e-3
    step: int = 10
    mu: float = 0.01
    start: float = 6.0
    prune: bool = True
    augment: bool = True

    def skip(self, problem: Problem) -> str | None:
        for choice in problem.space.choices:
            if not set(choice.bits) & set(LEVELS):
                return f"{self.name} needs 2, 4, 8, 16 or 32 among the bits, not {choice.bits}"
        return super().skip(problem)

    def search(self, problem: Problem) -> Solution:
        self.check_reach(problem)
        net = self.gated(problem)
        shares = relative_costs(problem)
        generator = problem.generator(self.name)
        optimizers = self.optimizers(problem, net)
        objective = "cross-entropy + mu * gated operations"
        course = Course(objective, generator, self.batch, self.augment)
        decay = [torch.optim.lr_scheduler.StepLR(o, self.step, 0.1) for o in optimizers]

        def loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
            net.sample(generator, CUT)
            task = cross_entropy(model, x, y)
            return course.step(task, task + self.mu * penalty(net, shares))

        for epoch in range(self.epochs):
            problem.progress(epoch, self.epochs, f"gated quantizers, mu {self.mu:.3g}")
            course.run(net.qmodel, problem.train, self.images, optimizers, loss)
            for schedule in decay:
                schedule.step()
            problem.checkpoint(net.policy(THRESHOLD))
        ranges = {
            name: [shared_range(q.weight_quantizer), shared_range(q.act_quantizer)]
            for name, q in net.qmodel.qlayers()
        }
        decided = net.decided(CUT, THRESHOLD)
        notes = {"mu": self.mu, "ranges": ranges, "decided": decided, "learning": course.to_json()}
        weights = net.qmodel.float_state()
        return Solution(net.policy(THRESHOLD), weights, notes=notes, cross_entropy=course.last)

    def check_reach(self, problem: Problem) -> None:
        """Refuse a search that is too short for any gate to close, whatever mu is.

        Raises:
            ValueError: with how far Adam moves a logit, and how far the threshold is.
        """
        images = len(problem.train)
        steps = math.ceil(min(self.images or images, images) / self.batch)
        decayed = sum(0.1 ** (epoch // self.step) for epoch in range(self.epochs))
        reach = self.gate_lr * steps * decayed
        away = self.start - closing_logit()
        if 0 < reach < away:
            raise ValueError(
                f"{self.name}: no gate can close: in {self.epochs} epochs of {steps} steps Adam "
                f"moves a logit by {reach:.3g}, and the threshold is {away:.3g} away: raise "
                f"gate_lr above {self.gate_lr * away / reach:.2g}, or lower start"
            )

    def gated(self, problem: Problem) -> GatedNet:
        """The network with a gate for each level of every tensor, and of channels with pruning."""
        levels = [[b for b in LEVELS if b in choice.bits] for choice in problem.space.choices]
        starts = [[SHUT if b == 32 else self.start for b in bits[1:]] for bits in levels]
        prunes = self.prune and problem.retrains and problem.target.per_channel
        return GatedNet(problem, levels, starts, self.start if prunes else None)

    def optimizers(self, problem: Problem, net: GatedNet) -> list[torch.optim.Optimizer]:
        """Of gates and of ranges, and of weights where the protocol trains."""
        logits = [gate.logits for gate in net.gates()]
        found: list[torch.optim.Optimizer] = [torch.optim.Adam(logits, lr=self.gate_lr)]
        if ranges := net.qmodel.range_parameters():
            found.append(torch.optim.Adam(ranges, lr=self.range_lr))
        if problem.retrains:
            weights = net.qmodel.weight_parameters()
            found.append(torch.optim.SGD(weights, self.lr, momentum=0.9, nesterov=True))
        return found

    def finish(self, problem: Problem, solution: Solution) -> QModel:
        """Fine-tune the weights and ranges of the search with the gates as decided."""

        def keep_ranges(qmodel: QModel) -> None:
            for name, betas in solution.notes["ranges"].items():
                q = qmodel.qlayer(name)
                for part, beta in zip((q.weight_quantizer, q.act_quantizer), betas, strict=True):
                    for module in part.modules():
                        if isinstance(module, RangeQuantizer) and beta is not None:
                            module.beta.data.fill_(beta)

        return problem.fine_tune(solution.policy, weights=solution.weights, prepare=keep_ranges)


def closing_logit() -> float:
    """The logit at which ``P(z = 0)`` is the threshold of section 2.2."""
    at_zero = HardConcrete([0.0]).active().logit().item()
    return math.log((1 - THRESHOLD) / THRESHOLD) - at_zero


def relative_costs(problem: Problem) -> dict[str, float]:
    """``MACs_l / max MACs``; by the budget's metric where that is a sum over layers."""
    costs = {layer.name: float(layer.macs) for layer in problem.layers}
    if problem.target.separable:
        costs = {n: max(table.values()) for n, table in problem.layer_costs().items()}
    most = max(costs.values())
    return {name: cost / most for name, cost in costs.items()}


def penalty(net: GatedNet, shares: Mapping[str, float]) -> Tensor:
    """``sum_k R_k``, each the mean over channels of the expected cost of its nested gates."""
    total = torch.zeros(())
    for name, levels, active in net.searched():
        costs = [bits * shares[name] for bits in levels]
        total = total + nested_cost(active, costs).mean()
    return total


def shared_range(quantizer: Quantizer) -> float | None:
    """The learned range of a quantizer on the paper's grid, None for others."""
    ranges = [m for m in quantizer.modules() if isinstance(m, RangeQuantizer)]
    return float(ranges[0].beta.detach()) if ranges else None
