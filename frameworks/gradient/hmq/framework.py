"""HMQ: Hardware Friendly Mixed Precision Quantization Block for CNNs.

Habi, Jennings and Netzer, ECCV 2020, arXiv 2007.09952; released code sony-si/ai-research, HMQ.

- The block (`frameworks.gradient.hmq.block`): a tensor's bits and its power-of-two threshold are
  one Gumbel-softmax over all pairs, and the tensor is quantized once, with the expected step and
  the expected threshold.
- Objective, with the compression C = S(most bits) / E[S] of the cost S under the probabilities
  without noise:
      L = CE + gamma relu((C_target - C) / C_target)^2.
- Schedules: C_target climbs linearly to the budget's compression in four steps, one in each cycle
  of ``cycle`` epochs; in every cycle the temperature of the Gumbel-softmax restarts at 1,
      tau = max(0.5, exp(-0.01 round(i / n))),
  i the iteration in the cycle, n a 25th of an epoch. Weights and logits train together (RAdam).
- Activation bits follow from the sizes of activations by a rule; of activations only the thresholds
  are searched.
- In the end the bits are the most probable by their marginals, the threshold the most probable at
  these bits, and the weights are fine-tuned.

Shorter searches: RAdam moves a logit by about ``hmq_lr`` a step, and the pair to start from is some
seven ahead of the others (the release takes 150,000 steps of 0.01): ``hmq_lr`` * steps should be
some times as much. The notes have the entropy of the bits after each epoch. In the suite quick
there is time for two of the four targets: a search ends at a compression of 2.2 of 2.46, its bits
still open (entropy 0.8), and lowering them to the budget does the rest. All four targets in the
same time leave a fifth of the budget unused, and policies 1.6 points worse (digits, 3 seeds).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from frameworks.core.card import Card
from frameworks.core.evaluation.train import Recipe, cross_entropy
from frameworks.core.framework import Framework
from frameworks.core.networks.qmodel import QModel
from frameworks.core.networks.taking.bake import raw_weight
from frameworks.core.policy import FLOAT, PRUNED, Policy
from frameworks.core.problem import Problem
from frameworks.core.quantizers.base import Quantizer
from frameworks.core.registry import register
from frameworks.core.search.course import Course
from frameworks.core.solution import Solution
from frameworks.core.supernets.placed import PlacedNet, Spot
from frameworks.gradient.hmq.bits import BitChoices, activation_bits
from frameworks.gradient.hmq.block import HMQBlock
from frameworks.gradient.hmq.quantizer import power_of_two, top_threshold

STAGES = 4
"""Steps of the target compression."""
COOLEST = 0.5
"""The lowest temperature."""


def target_compression(epoch: int, cycle: int, final: float) -> float:
    """``C_target`` in an epoch from 0: from 1 (most bits) to the final one in `STAGES` steps."""
    return 1 + (final - 1) * min(epoch // cycle, STAGES - 1) / (STAGES - 1)


def temperature(step: int, per_epoch: int) -> float:
    """``tau`` at a step from 0 of a cycle, with so many steps in an epoch."""
    return max(COOLEST, math.exp(-0.01 * round(step / max(round(per_epoch / 25), 1))))


def shortfall(compression: Tensor, target: float) -> Tensor:
    """``relu((C_target - C) / C_target)^2``."""
    return torch.relu((target - compression) / target).square()


@register
@dataclass
class HMQ(Framework):
    """A Gumbel-softmax over bits and power-of-two thresholds for every weight.

    Attributes:
        epochs: passes over the training images.
        cycle: epochs of a cycle: one target compression, one fall of the temperature.
        images: training images an epoch; None for all.
        batch: batch size.
        lr: learning rate of the weights (RAdam).
        hmq_lr: learning rate of the blocks' logits (RAdam, without weight decay).
        gamma: weight of the penalty on too little compression.
        weight_decay: of the weights.
        augment: whether images are augmented as the dataset says.
    """

    name: ClassVar[str] = "hmq"
    card: ClassVar[Card] = Card(
        title="HMQ: Hardware Friendly Mixed Precision Quantization Block for CNNs",
        year=2020,
        category="gradient",
        quantizer="hmq",
        quantization=("deterministic rounding",),
        granularity="layer",
        searches=("weight",),
        needs=frozenset({"calibration", "train", "separable_cost"}),
        arxiv="2007.09952",
        venue="ECCV 2020",
        deviations=(
            "the compression is of the cost on the target, relative to the most bits; the paper's "
            "is of weight memory, relative to 32 bits, so that it starts at 4 (8 bits)",
            "where the most probable bits are over the budget, those that lose least probability "
            "are lowered; the paper takes the Pareto-best networks of its epochs",
            "the block has its own quantizer in every protocol, as it searches thresholds too; "
            "ptq and controlled take the bits alone",
            "codes are -2^(b-1) ... 2^(b-1) - 1 and 0 ... 2^b - 1; those of the release are higher "
            "by one at both ends, one too many for unsigned data",
            "activation bits are by the released rule, of the least compression of activations at "
            "which weights of equal bits fit the budget, not by a second target in four steps, and "
            "not clipped to 4 ... 8; where the rule fits with no bits, all layers have equal ones",
            "largest thresholds of activations are from the calibration images; the release takes "
            "a running maximum over the training set",
            "activation quantizers sit at the inputs of layers; MobileNetV2's after linear "
            "bottlenecks and residual sums are where a layer reads these",
            "tied layers have blocks of their own and the mean of their bits' probabilities; where "
            "bits are paired, those of activations are part of it",
            "pinned layers have the protocol's quantizers, whose ranges are not trained; the "
            "network's input is quantized where the space says so, which the release never does",
            "one signed bit has the levels -t/2 and t/2",
            "fine-tuning is by Adam; the release stays with RAdam",
        ),
    )
    lowers_bits: ClassVar[bool] = True
    searches_weights: ClassVar[bool] = True
    recipe: ClassVar[Recipe | None] = Recipe(
        epochs=20, batch=256, optimizer="adam", lr=1e-5, schedule="constant", augment=True
    )

    epochs: int = 30
    cycle: int = 5
    images: int | None = None
    batch: int = 256
    lr: float = 1e-5
    hmq_lr: float = 0.01
    gamma: float = 32.0
    weight_decay: float = 1e-4
    augment: bool = True

    def search(self, problem: Problem) -> Solution:
        acts, generator = activation_bits(problem), problem.generator(self.name)
        net = PlacedNet(problem, blocks_of(problem, acts, generator))
        bits = BitChoices(problem, deciding(net), acts)
        final = bits.most / problem.budget.limit
        objective = "cross-entropy + gamma * shortfall of the budget"
        course = Course(objective, generator, self.batch, self.augment)
        blocks = [m for m in net.qmodel.modules() if isinstance(m, HMQBlock)]
        optimizers, entropy = self.optimizers(net.qmodel, blocks), [bits.entropy()]
        images = len(problem.train)
        steps = math.ceil(min(self.images or images, images) / self.batch)

        def loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
            epoch, step = divmod(len(course.losses), steps)
            for block in blocks:
                block.tau = temperature(epoch % self.cycle * steps + step, steps)
            task, found = cross_entropy(model, x, y), bits.compression()
            # Noted with the last target, so that all steps are comparable.
            course.step(task, task + self.gamma * shortfall(found, final))
            return task + self.gamma * shortfall(
                found, target_compression(epoch, self.cycle, final)
            )

        for epoch in range(self.epochs):
            problem.progress(epoch, self.epochs, f"HMQ blocks, gamma {self.gamma:.3g}")
            course.run(net.qmodel, problem.train, self.images, optimizers, loss)
            entropy.append(bits.entropy())
            problem.checkpoint(bits.policy())
        policy = bits.policy()
        notes = {
            **{"entropy": entropy, "compression": [float(bits.compression().detach()), final]},
            **{"thresholds": chosen_thresholds(net, policy), "learning": course.to_json()},
        }
        weights = net.qmodel.float_state()
        return Solution(policy, weights, notes=notes, cross_entropy=course.last)

    def optimizers(self, qmodel: QModel, blocks: Sequence[HMQBlock]) -> list[torch.optim.Optimizer]:
        """RAdam for the weights, and for the logits."""
        weights, logits = qmodel.weight_parameters(), [block.logits for block in blocks]
        return [
            torch.optim.RAdam(weights, lr=self.lr, weight_decay=self.weight_decay),
            torch.optim.RAdam(logits, lr=self.hmq_lr),
        ]

    def finish(self, problem: Problem, solution: Solution) -> QModel:
        """Fine-tune the weights of the search under its thresholds."""

        def keep_thresholds(qmodel: QModel) -> None:
            for name, kinds in solution.notes["thresholds"].items():
                q = qmodel.qlayer(name)
                for kind, (threshold, bits, signed) in kinds.items():
                    found = power_of_two(threshold, bits, signed, raw_weight(q.inner))
                    setattr(q, f"{kind}_quantizer", found)

        return problem.fine_tune(solution.policy, weights=solution.weights, prepare=keep_thresholds)


def blocks_of(
    problem: Problem, acts: Mapping[str, int], generator: torch.Generator
) -> Callable[[Spot], Quantizer]:
    """Makes the block of a spot; of activations with all bits only where these are searched."""

    def make(spot: Spot) -> Quantizer:
        weight = spot.kind == "weight"
        top = top_threshold(float(spot.tensor.abs().max()), weight)
        bits = tuple(b for b in spot.bits if b not in (PRUNED, FLOAT))
        if not weight and not problem.space.paired:
            bits = (acts[spot.layer.name],)
        # The input channels of a weight; the images of a batch.
        axis = 1 if weight else 0
        return HMQBlock(bits, top, spot.signed, axis, generator, problem.device)

    return make


def deciding(net: PlacedNet) -> dict[int, list[HMQBlock]]:
    """The blocks that decide about each choice, by its row in the space."""
    found: dict[int, list[HMQBlock]] = {}
    for kind in ("weight", "act") if net.problem.space.paired else ("weight",):
        for spot, block in net.placed(kind):
            assert isinstance(block, HMQBlock)
            found.setdefault(spot.row, []).append(block)
    return found


def chosen_thresholds(net: PlacedNet, policy: Policy) -> dict[str, dict[str, list[float]]]:
    """Threshold, bits and whether signed, of each searched tensor at the bits of a policy."""
    found: dict[str, dict[str, list[float]]] = {}
    for (name, kind), block in net.quantizers.items():
        bits = policy[name].weight if kind == "weight" else policy[name].act
        assert isinstance(block, HMQBlock)
        assert isinstance(bits, int)
        if bits in block.bits:
            entry = [block.threshold(bits), bits, block.signed]
            found.setdefault(name, {})[kind] = entry
    return found
