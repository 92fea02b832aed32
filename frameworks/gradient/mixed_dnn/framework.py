"""Mixed Precision DNNs: All you need is a good parametrization.

Uhlich, Mauch, Cardinaux, Yoshiyama, Alonso Garcia, Tiedemann, Kemp and Nakamura, ICLR 2020, arXiv
1905.11452 (first "Differentiable Quantization of Deep Neural Networks"); released code
sony/ai-research-code, folder mixed-precision-dnns.

- Of a uniform quantizer's step size d, range q_max and bits b, two decide the third. Learning (d,
  q_max), with b inferred, is well conditioned: its gradients are bounded and never there at once.
  Those of (b, d) and (b, q_max) grow with 2^b; they are here for the comparison
  (`frameworks.gradient.mixed_dnn.quantizer` has the formulas).
- Inferred bits: b = ceil(log2(q_max / d + 1)) + 1 for weights, without the 1 for activations that
  are never negative; the rounding passes the gradient on.
- Objective: CE + sum_j lambda_j max(0, g_j)^2, with g_1 = S_w - S_w0 the memory of all weights and
  g_2 that of activations, summed over layers or the largest, in KB beyond what there may be;
  lambda_j = 0.1.
- Weights, d and q_max train together by SGD from the float network, all with weight decay. Before a
  step the gradients of d and q_max are clipped to [-d, d], after it d to [2^-8, 1] and q_max to
  [2^-8, 127] or [2^-8, 255]. The learning rate falls tenfold at 1/2 and at 3/4.
- One run: no policy is trained anew. Among its iterates one that meets all constraints is kept: its
  policy and grids; the weights are the last ones. After a step q_max is raised to d where it has
  fallen below (the released code lowers d); both have one level then.

Shorter searches (the paper takes 62,500 steps): a clipped gradient moves d by at most ``lr`` of
itself in a step, ten times as much with momentum, so lr times steps must be some tenths for bits to
change, whatever the penalty. The notes have how many bits changed in each epoch.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

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
from frameworks.core.supernets.placed import PlacedNet
from frameworks.gradient.mixed_dnn.constraints import MEMORIES, Constraints
from frameworks.gradient.mixed_dnn.grids import grid, learned, restored, written
from frameworks.gradient.mixed_dnn.quantizer import FORMS, ParametricQuantizer

EXACT = 1 + 1e-6
"""A share of a limit up to which it counts as met, as float32 adds up costs."""


@register
@dataclass
class MixedDNN(Framework):
    """Learned steps and ranges; their ratio is a layer's bits.

    Attributes:
        epochs: passes over the training images.
        images: training images an epoch; None for all.
        batch: batch size.
        lr: first learning rate.
        range_lr: that of steps and ranges, relative to ``lr``; 1 as published.
        penalty: weight of the squared relative excess over each limit.
        bits: weight and activation bits of the start.
        form: what is learned: step_range, bits_step or bits_range.
        memories: limits beside the budget: ``sum`` or ``max`` for the paper's memories.
        weight_decay: of all that is trained.
        augment: whether images are augmented as the dataset says.
    """

    name: ClassVar[str] = "mixed_dnn"
    card: ClassVar[Card] = Card(
        title="Mixed Precision DNNs: All you need is a good parametrization",
        year=2020,
        category="gradient",
        quantizer="mixed_dnn",
        quantization=("learned range",),
        granularity="layer",
        searches=("weight", "act"),
        needs=frozenset({"calibration", "train", "separable_cost"}),
        arxiv="1905.11452",
        venue="ICLR 2020",
        deviations=(
            "the constraints are the budget's own metrics, of which size is the paper's memory of "
            "weights; its two memories can be had beside them (`memories`), as large as those of "
            "the uniform bits that use up the budget",
            "the penalty weighs squared relative excesses and is adjusted to meet the budget; the "
            "published 0.1 / KB^2 is 0.1 * 70.1^2 = 491 for ResNet-20's target of 70.1 KB",
            "the last iterate within the budget is kept; the released code keeps the one of least "
            "error on the test images",
            "q_max counts as the nearest multiple of d, with the gradient of the identity, so that "
            "range, output and the zero gradient of d outside agree as in the paper; the released "
            "code clips to q_max and rounds afterwards. With (b, q_max) d is q_max / n exactly, "
            "where it is a power of two there",
            "q_max is held where eight bits do, the most that the other two forms may learn",
            "inferred bits that are no candidate count as the next one, beyond the most as the "
            "most; tied layers have the most of any of them, and so have weights and activations "
            "in spaces of equal bits",
            "activations start, as weights do, from the power of two by their largest value (in "
            "the calibration sample); the paper from d = 2^-3",
            "inputs of layers are quantized, signed where they have negative values; biases and "
            "pinned layers have the protocol's quantizers or none. The power-of-two quantizer of "
            "the paper is left out",
        ),
    )
    strength: ClassVar[str | None] = "penalty"
    close: ClassVar[float] = 0.9
    lowers_bits: ClassVar[bool] = True
    searches_choices: ClassVar[bool] = True

    epochs: int = 160
    images: int | None = None
    batch: int = 128
    lr: float = 0.01
    range_lr: float = 1.0
    penalty: float = 491.4
    bits: int = 4
    form: str = "step_range"
    memories: str = "budget"
    weight_decay: float = 2e-4
    augment: bool = True

    def validate(self) -> None:
        super().validate()
        for name, known in (("form", tuple(FORMS)), ("memories", MEMORIES)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} = {getattr(self, name)!r}: choose from {list(known)}")
        if not 2 <= self.bits <= 8:
            raise ValueError(f"bits = {self.bits}: start with 2 to 8")

    def search(self, problem: Problem) -> Solution:
        net = PlacedNet(problem, partial(grid, self.form, self.bits))
        constraints, grids = Constraints(problem, net, self.memories), learned(net)
        optimizer = self.optimizer(net, grids)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda epoch: Recipe(schedule="step").rate(epoch / self.epochs)
        )
        objective = "cross-entropy + penalty * squared excess"
        course = Course(objective, problem.generator(self.name), self.batch, self.augment)
        decided, kept, found = [constraints.values()], constraints.values(), written(net)
        within, shares = False, list[float]()

        def loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
            nonlocal kept, found, within
            of_budget, each = constraints()
            if met(of_budget, each):
                kept, found, within = constraints.values(), written(net), True
            excess = (each - 1).clamp_min(0).square().sum()
            task = cross_entropy(model, x, y)
            return course.step(task, task + self.penalty * excess)

        def before_step() -> None:
            for quantizer in grids:
                for value in quantizer.parameters():
                    if value.grad is not None:
                        value.grad.add_(value.detach(), alpha=self.weight_decay)
                quantizer.bound_gradients()

        def after_step() -> None:
            for quantizer in grids:
                quantizer.bound_values()

        for epoch in range(self.epochs):
            problem.progress(epoch, self.epochs, f"steps and ranges, penalty {self.penalty:.3g}")
            course.run(
                net.qmodel, problem.train, self.images, [optimizer], loss, after_step, before_step
            )
            schedule.step()
            of_budget, each = constraints()
            shares.append(float(of_budget.detach().max()))
            if (fits := met(of_budget, each)) or not within:
                kept, found, within = constraints.values(), written(net), fits
            decided.append(constraints.values())
            problem.checkpoint(problem.space.decode(kept))
        changed = [
            sum(a != b for a, b in zip(*pair, strict=True)) for pair in itertools.pairwise(decided)
        ]
        notes = {"penalty": self.penalty, "grids": found, "shares": shares, "changed": changed}
        notes["learning"] = course.to_json()
        policy, weights = problem.space.decode(kept), net.qmodel.float_state()
        return Solution(policy, weights, notes=notes, cross_entropy=course.last)

    def optimizer(
        self, net: PlacedNet, grids: Sequence[ParametricQuantizer]
    ) -> torch.optim.Optimizer:
        """SGD; what the grids learn is decayed before its gradients are bounded, by the search."""
        of_grids = [p for quantizer in grids for p in quantizer.parameters()]
        known, model = {id(p) for p in of_grids}, net.qmodel
        rest = [*model.weight_parameters(), *model.range_parameters()]
        groups: list[dict[str, Any]] = [
            {"params": [p for p in rest if id(p) not in known], "weight_decay": self.weight_decay},
            {"params": of_grids, "lr": self.lr * self.range_lr},
        ]
        return torch.optim.SGD(groups, lr=self.lr, momentum=0.9)

    def finish(self, problem: Problem, solution: Solution) -> QModel:
        """The network as the search has trained it; the paper trains nothing anew."""

        def keep_grids(qmodel: QModel) -> None:
            for name, qlayer in qmodel.qlayers():
                used = qlayer.weight_quantizer, qlayer.act_quantizer
                pair = [
                    restored(old, solution.notes["grids"][kind].get(name))
                    for kind, old in zip(("weight", "act"), used, strict=True)
                ]
                qlayer.use(solution.policy[name], *pair)

        none = Recipe(epochs=0)
        trained = problem.fine_tune(
            solution.policy, none, weights=solution.weights, prepare=keep_grids
        )
        problem.take_statistics(trained, Recipe(epochs=self.epochs, images=self.images))
        return trained


def met(*shares: Tensor) -> bool:
    """Whether shares of limits are within them."""
    return all(float(each.detach().max()) <= EXACT for each in shares)
