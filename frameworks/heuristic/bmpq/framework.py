"""BMPQ: Bit-Gradient Sensitivity-Driven Mixed-Precision Quantization of DNNs from Scratch.

Kundu, Wang, Sun, Beerel and Pedram, DATE 2022, arXiv 2112.13843. One training, from random weights,
in which the bits of layers are found; its abstract gives the idea, all else is reconstructed here.

- Every layer starts at its most bits (4); weights are symmetric and uniform, activations PACT's, at
  the bits of the layer's weights; the first and the last layer are pinned.
- Bit gradients (`frameworks.heuristic.bmpq.bits`): dL/dB_k of the bits of each weight. A layer's
  sensitivity ENBG_l is their mean magnitude over weights and bits, batches and epochs, at the same
  number of bits for all layers.
- Every ``interval`` epochs, but not after the last whole one, an integer linear programme assigns
  the bits anew, and the training goes on at these:
      maximise    sum_l  ENBG_l q_l,   q_l in {4, 2},
      subject to  sum_l  cost_l(q_l) <= the budget (bits of all parameters in the paper).
- The network at the end of the training is the result; nothing is fine-tuned.

Under the paper's own quantizer ENBG at 2 bits is 2.8 times that of the same gradients at 4. Taken
at each layer's present bits it makes a layer that was cut look more sensitive than it is, and like
layers swap their bits at every assignment, of which the number then decides (``common=false``).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from frameworks.core.card import Card
from frameworks.core.evaluation.train import Recipe, cross_entropy, make_optimizer
from frameworks.core.framework import Framework
from frameworks.core.networks.qmodel import QModel
from frameworks.core.policy import FLOAT, PRUNED, VALID_BITS, Policy
from frameworks.core.problem import Problem
from frameworks.core.registry import register
from frameworks.core.search.course import Course
from frameworks.core.search.learning import Learning
from frameworks.core.search.matched import Menu
from frameworks.core.solution import Solution
from frameworks.heuristic.bmpq.network import change, random_weights, watch
from frameworks.heuristic.bmpq.programme import assign, menu_of, most, searched


@register
@dataclass
class BMPQ(Framework):
    """Bit gradients while training; an integer programme assigns bits anew every few epochs.

    Attributes:
        epochs: passes over the training images.
        interval: epochs between assignments; the first ones are at the most bits.
        images: training images an epoch; None for all.
        batch: batch size.
        lr: learning rate, times 0.1 at 1/2 and 3/4 of the epochs.
        range_lr: learning rate of learned ranges, relative to ``lr``.
        weight_decay: of weights.
        bits: the candidates; empty for all that the protocol has. They give way to these where a
            layer may not take them, and where they cannot meet the budget or leave much unused.
        common: sensitivities are those at a common number of bits; else those at each layer's
            present bits, by which layers of similar sensitivity swap at every assignment.
        scratch: start from random weights; else from the pretrained ones.
        augment: whether images are augmented as the dataset says.
    """

    name: ClassVar[str] = "bmpq"
    card: ClassVar[Card] = Card(
        title="BMPQ: Bit-Gradient Sensitivity-Driven Mixed-Precision Quantization of DNNs from "
        "Scratch",
        arxiv="2112.13843",
        year=2022,
        venue="DATE",
        category="heuristic",
        quantizer="bmpq",
        quantization=("deterministic rounding", "learned range"),
        granularity="layer",
        searches=("weight", "act"),
        needs=frozenset({"calibration", "train", "separable_cost"}),
        deviations=(
            "only the abstract could be read, and there is no code: bit form, normalisation, "
            "objective, schedule, rates and the candidates 4 and 2 are reconstructed from memory "
            "of the paper",
            "sensitivities are means over a layer's weights and bits at a common number of bits, "
            "where means and sums over bits rank alike. Whether the paper takes each layer's "
            "present bits (common=false), the mean or the sum could not be verified; a layer at 2 "
            "bits looks 2.8 (sum: 1.4) times as sensitive as at 4 under its quantizer, and layers "
            "of like cost that are nearer than that swap at every assignment",
            "layers outside the search are pinned as the protocol says (the paper: 16 bits), and "
            "costs are the target's (the paper: bits of parameters)",
            "where a layer may not take 4 and 2 bits, or these cannot meet the budget or leave "
            "more than a tenth of it unused, all of the protocol's bits are candidates; "
            "activations that cannot have the weights' bits take the nearest",
            "clipping values of activations do not decay, as PACT's do: whether the paper's do is "
            "not known",
            "random weights are those of torch's reset_parameters; parameters of modules without "
            "it stay as they are. scratch=false, for short searches, starts pretrained",
            "weights and ranges of the search are the result under paper alone; the other "
            "protocols quantize (and train) the pretrained network at the bits found",
        ),
    )
    recipe: ClassVar[Recipe | None] = Recipe(epochs=0, batch=128, lr=0.1, weight_decay=5e-4)

    epochs: int = 200
    interval: int = 20
    images: int | None = None
    batch: int = 128
    lr: float = 0.1
    range_lr: float = 0.1
    weight_decay: float = 5e-4
    bits: list[int] = field(default_factory=lambda: [2, 4])
    common: bool = True
    scratch: bool = True
    augment: bool = True

    def validate(self) -> None:
        super().validate()
        if self.epochs < 2 * self.interval:
            raise ValueError(
                f"epochs = {self.epochs}: give at least twice interval = {self.interval}, so that "
                "bits are assigned after the first and trained in the last"
            )
        if not set(self.bits) <= VALID_BITS - {PRUNED, FLOAT}:
            raise ValueError(f"bits = {self.bits}: each must be one of 1 to 8, or 16")

    def skip(self, problem: Problem) -> str | None:
        free = {b for bits in problem.space.weight_bits.values() if len(bits) > 1 for b in bits}
        if not free:
            return f"{self.name} finds nothing to search: the space pins all weight bits"
        if free & {PRUNED, FLOAT}:
            return f"{self.name} needs bits that have gradients; weights of 0 and 32 have none"
        return super().skip(problem)

    def finish(self, problem: Problem, solution: Solution) -> QModel:
        """The trained network; it is trained on only where the recipe has epochs (see `recipe`).

        BatchNorm's statistics are taken as after any training.
        """

        def keep_ranges(qmodel: QModel) -> None:
            for name, values in solution.notes["ranges"].items():
                for key, p in qmodel.qlayer(name).act_quantizer.named_parameters():
                    p.data.copy_(p.new_tensor(values[key]).view_as(p))

        policy, weights = solution.policy, solution.weights
        net = problem.fine_tune(policy, weights=weights, prepare=keep_ranges)
        if not problem.recipe.epochs:
            problem.take_statistics(net, self.training)
        return net

    def search(self, problem: Problem) -> Solution:
        menu, objective = menu_of(problem, self.bits), "cross-entropy at bits within the budget"
        net = self.start(problem, menu)
        names, optimizer = searched(problem), self.optimizer(net)
        taps = watch(net, names, self.common)
        course = Course(objective, problem.generator(self.name), self.batch, self.augment)
        assigned: list[tuple[int, dict[str, float], Policy]] = []

        def loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
            return course.step(task := cross_entropy(model, x, y), task)

        def end_batch() -> None:
            for tap in taps.values():
                tap.end_batch()

        for epoch in range(self.epochs):
            problem.progress(epoch, self.epochs, "training at changing bits")
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"] * self.training.rate(epoch / self.epochs)
            course.run(net, problem.train, self.images, [optimizer], loss, before_step=end_batch)
            for tap in taps.values():
                tap.end_epoch()
            if self.assigns(epoch + 1):
                sensitivity = {name: tap.taken() for name, tap in taps.items()}
                policy = assign(problem, menu, sensitivity)
                problem.checkpoint(policy)
                assigned.append((len(course.values), sensitivity, policy))
                for name, bits in policy.items():
                    change(net, name, bits)
                taps = watch(net, names, self.common)
                optimizer = self.optimizer(net, optimizer)
        return self.solution(net, course, assigned)

    @property
    def training(self) -> Recipe:
        """The whole training."""
        rates = {"lr": self.lr, "range_lr": self.range_lr, "weight_decay": self.weight_decay}
        seen = {"epochs": self.epochs, "images": self.images, "batch": self.batch}
        return Recipe(schedule="step", **seen, **rates)  # type: ignore[arg-type]

    def assigns(self, done: int) -> bool:
        """Whether bits are assigned after so many epochs."""
        return done % self.interval == 0 and done <= self.epochs - self.interval

    def start(self, problem: Problem, menu: Menu) -> QModel:
        """The network at its most bits, before any training."""
        untrained = replace(problem.recipe, epochs=0)
        weights = random_weights(problem) if self.scratch else None
        return problem.fine_tune(most(menu), untrained, weights=weights)

    def optimizer(
        self, net: QModel, before: torch.optim.Optimizer | None = None
    ) -> torch.optim.Optimizer:
        """SGD over weights and ranges; what was trained before keeps its momentum."""
        made = make_optimizer(self.training, net.weight_parameters(), net.range_parameters())
        for group in made.param_groups:
            group["initial_lr"] = group["lr"]
            for p in group["params"] if before is not None else ():
                if p in before.state:  # type: ignore[union-attr]
                    made.state[p] = before.state[p]  # type: ignore[union-attr]
        return made

    def solution(
        self,
        net: QModel,
        course: Course,
        assigned: list[tuple[int, dict[str, float], Policy]],
    ) -> Solution:
        """The last policy with the trained weights, and what led to it."""
        first, (_, sensitivity, policy) = assigned[0][0], assigned[-1]
        learning = Learning(course.objective, course.values[first:], higher=False)
        acts = ((name, q.act_quantizer.named_parameters()) for name, q in net.qlayers())
        notes = {
            "sensitivity": sensitivity,
            "assigned": [[b.weight for b in found.values()] for _, _, found in assigned],
            "ranges": {name: {k: p.flatten().tolist() for k, p in ps} for name, ps in acts},
            "learning": learning.to_json(),
        }
        return Solution(policy, net.float_state(), notes=notes, cross_entropy=course.last)
