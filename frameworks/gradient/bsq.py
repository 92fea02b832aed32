"""BSQ: Exploring Bit-Level Sparsity for Mixed-Precision Neural Network Quantization.

Yang, Duan, Chen and Li, ICLR 2021, arXiv 2102.10462; released code yanghr/BSQ.

- Bit representation (section 3.1): the pretrained weights are quantized to 8 bits and each bit
  becomes a trained number in [0, 2], positive and negative parts apart,
      W = s round(sum_b (p_b - n_b) 2^b) / (2^n - 1),
  with the straight-through gradient dL/dp_b = s 2^b / (2^n - 1) dL/dW (equation 3).
- Bit-level group Lasso (section 3.2, equation 4): B_GL(l) = sum_b ||[p_b; n_b]||_2 over the planes
  of a layer, which drives whole planes to 0.
- Objective with memory consumption-aware reweighing (equation 5):
      L = CE + alpha sum_l (#Para_l #Bit_l / #Para) B_GL(l).
- Re-quantization and precision adjustment (section 3.3), every ``interval`` epochs from the first
  and at the end: sums are rounded to exact binary planes, planes of zeros at both ends stripped, s
  corrected so that no weight changes; a new optimizer starts. The planes left are the precision,
  which is fine-tuned under the kept scales.

Shorter searches (the paper takes some 136,000 steps): raise ``plane_lr``, not alpha, whose pull on
a bit is strongest in the sparse top planes: these die first and take the network with them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from frameworks.core.card import Card
from frameworks.core.evaluation.train import Recipe, cross_entropy
from frameworks.core.framework import Framework
from frameworks.core.networks.qmodel import QModel
from frameworks.core.networks.taking.bake import mask_of, raw_weight, stored_weight
from frameworks.core.policy import FLOAT, PRUNED, LayerBits, Policy
from frameworks.core.problem import Problem
from frameworks.core.quantizers.bitplanes import BitPlanes, SignMagnitude
from frameworks.core.registry import register
from frameworks.core.search.course import Course
from frameworks.core.solution import Solution
from frameworks.core.supernets.activations import affordable_activations

MOMENTUM = 0.9
Planes = dict[str, BitPlanes]


@register
@dataclass
class BSQ(Framework):
    """Trained bit planes under a group Lasso; what planes are left is a layer's weight bits.

    Attributes:
        epochs: passes over the training images.
        interval: epochs between re-quantizations with precision adjustment.
        step: epochs after which the learning rate is multiplied by 0.1.
        images: training images an epoch; None for all.
        batch: batch size.
        lr: learning rate of scales and of all else that has none of its own.
        plane_lr: learning rate of the planes, relative to ``lr``; 1 as published.
        alpha: strength of the bit-level group Lasso.
        act_bits: activation bits of all layers; fewer where the budget asks for it (see the card).
        weight_decay: of all that ``lr`` trains.
        range_lr: learning rate of learned activation ranges, relative to ``lr``.
        augment: whether images are augmented as the dataset says.
        prune: whether a layer without planes has 0 bits, where the protocol trains.
    """

    name: ClassVar[str] = "bsq"
    card: ClassVar[Card] = Card(
        title="BSQ: Exploring Bit-Level Sparsity for Mixed-Precision Neural Network Quantization",
        year=2021,
        category="gradient",
        quantizer="bsq",
        quantization=("bit planes",),
        granularity="layer",
        searches=("weight",),
        needs=frozenset({"calibration", "train"}),
        arxiv="2102.10462",
        venue="ICLR 2021",
        deviations=(
            "a layer's bits count the sign: n planes have the levels of n + 1 bits, and start at "
            "one less than the most bits allowed; the paper starts at 8 and does not count signs",
            "alpha is adjusted to meet the budget; the paper sweeps it",
            "activation bits, which the paper sets by hand, are where the target prices them the "
            "most up to act_bits at which the uniform policy of equal bits is within the budget",
            "a layer without planes gets its fewest bits and not 0 where the protocol does not "
            "train, or without prune: the network that did without it is kept under paper alone",
            "bits that are no candidate are raised to the next; tied layers get their most bits; "
            "where bits are paired, activations follow",
            "planes start from the codes of the protocol's quantizer at the most bits; where that "
            "is no uniform grid with a zero, from s = max|W| as in the paper",
            "pinned layers have no planes; shortcuts, float as released, do; biases do not",
            "activation ranges are the protocol's, learned at a tenth of the learning rate; the "
            "network's own ReLU is kept where the released code puts a ReLU6",
            "fine-tuning trains W, and s as a range, and its rate falls at 1/2 and 3/4; the "
            "released code trains W / s in [-1, 1], whose steps are s^2 times ours, s at the full "
            "rate with weight decay, and its rate falls after 150 and 250 of 300 epochs",
        ),
    )
    strength: ClassVar[str | None] = "alpha"
    close: ClassVar[float] = 0.9
    lowers_bits: ClassVar[bool] = True
    searches_weights: ClassVar[bool] = True
    recipe: ClassVar[Recipe | None] = Recipe(
        epochs=300, batch=128, lr=0.01, schedule="step", weight_decay=1e-4, augment=True
    )

    epochs: int = 350
    interval: int = 100
    step: int = 250
    images: int | None = None
    batch: int = 128
    lr: float = 0.1
    plane_lr: float = 1.0
    alpha: float = 5e-3
    act_bits: int = 4
    weight_decay: float = 1e-4
    range_lr: float = 0.1
    augment: bool = True
    prune: bool = True

    def search(self, problem: Problem) -> Solution:
        acts, net = self.activations(problem), problem.quantized()
        planes = represent(problem, net, acts)
        objective, generator = "cross-entropy + alpha * Lasso", problem.generator(self.name)
        course = Course(objective, generator, self.batch, self.augment)

        def loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
            task = cross_entropy(model, x, y)
            return course.step(task, task + self.alpha * reweighed_lasso(problem, planes))

        def clamp() -> None:
            for each in planes.values():
                each.clamp_()

        for epoch in range(self.epochs):
            problem.progress(epoch, self.epochs, f"bit planes, alpha {self.alpha:.3g}")
            if epoch % self.interval == 0:
                self.adjust(problem, net, planes, acts)
                optimizer = self.optimizer(net, epoch)
            for group in optimizer.param_groups:
                group["lr"] = group["share"] * self.rate(epoch)
            course.run(net, problem.train, self.images, [optimizer], loss, clamp)
        policy = self.adjust(problem, net, planes, acts)
        for name, each in planes.items():
            stored_weight(net.qlayer(name).inner).data.copy_(each(each.scale).detach())
        steps = {name: each.step.flatten().tolist() for name, each in planes.items()}
        notes = {"alpha": self.alpha, "steps": steps, "learning": course.to_json()}
        return Solution(policy, net.float_state(), notes=notes, cross_entropy=course.last)

    def finish(self, problem: Problem, solution: Solution) -> QModel:
        """Fine-tune the weights of the search at their precision, from the scales of the search."""

        def keep_scales(qmodel: QModel) -> None:
            for name, steps in solution.notes["steps"].items():
                quantizer = qmodel.qlayer(name).weight_quantizer
                if isinstance(quantizer, SignMagnitude) and len(steps) == 1:
                    quantizer.set_step(steps[0])

        return problem.fine_tune(solution.policy, weights=solution.weights, prepare=keep_scales)

    def rate(self, epoch: int) -> float:
        """The learning rate of an epoch, from 0."""
        return self.lr * 0.1 ** (epoch // self.step)

    def activations(self, problem: Problem) -> dict[str, int]:
        """The activation bits of every layer during the search."""
        return affordable_activations(problem, self.act_bits)

    def adjust(self, problem: Problem, net: QModel, planes: Planes, acts: dict[str, int]) -> Policy:
        """Re-quantize and strip all layers; the policy of the planes that are left."""
        for each in planes.values():
            each.requantize()
            each.adjust()
        policy = precision(problem, planes, acts, self.prune and problem.retrains)
        for name, qlayer in net.qlayers():
            if qlayer.bits.act != policy[name].act:
                release_activations(problem, net, name, policy[name].act)
        problem.checkpoint(policy)
        return policy

    def optimizer(self, net: QModel, epoch: int) -> torch.optim.Optimizer:
        """SGD over planes, scales and what else the network trains, at an epoch's rate."""
        of_acts = (p for _, q in net.qlayers() for p in q.act_quantizer.parameters())
        ranges = [p for p in of_acts if p.requires_grad]
        held = (m for m in net.modules() if isinstance(m, BitPlanes))
        planes = [p for each in held for p in (each.positive, each.negative)]
        known, decay = {id(p) for p in (*ranges, *planes)}, self.weight_decay
        rest = [p for p in net.parameters() if p.requires_grad and id(p) not in known]
        groups = [
            {"params": planes, "weight_decay": decay, "share": self.plane_lr},
            {"params": rest, "weight_decay": decay, "share": 1.0},
            {"params": ranges, "weight_decay": 0.0, "share": self.range_lr},
        ]
        return torch.optim.SGD(groups, lr=self.rate(epoch), momentum=MOMENTUM)


def represent(problem: Problem, net: QModel, acts: dict[str, int]) -> Planes:
    """Put planes in the place of every searched weight, each once; the planes by layer name."""
    planes: Planes = {}
    for name, qlayer in net.qlayers():
        bits = [b for b in problem.space.weight_bits[name] if b != FLOAT] or [FLOAT]
        release_activations(problem, net, name, acts[name])
        if qlayer.layer.shared:
            qlayer.weight_quantizer = net.qlayer(qlayer.layer.shared).weight_quantizer
            continue
        start = problem.quantizer(name, "weight", bits[-1])
        if len(bits) == 1:
            start.learn_range()
            qlayer.weight_quantizer = start
            continue
        inner = qlayer.inner
        planes[name] = BitPlanes.coded(raw_weight(inner), start, bits[-1] - 1, mask_of(inner))
        qlayer.weight_quantizer = planes[name]
    return planes


def release_activations(problem: Problem, net: QModel, name: str, bits: int) -> None:
    """Give a layer's input the protocol's quantizer at these bits, with a trained range."""
    qlayer = net.qlayer(name)
    qlayer.bits = LayerBits(qlayer.bits.weight, bits)
    qlayer.act_quantizer = problem.quantizer(name, "act", bits)
    qlayer.act_quantizer.learn_range()


def reweighed_lasso(problem: Problem, planes: Planes) -> Tensor:
    """``sum_l (#Para_l #Bit_l / #Para) B_GL(l)`` over the layers with planes (equation 5)."""
    params = {layer.name: layer.params for layer in problem.layers if layer.name in planes}
    total = sum(params.values())
    terms = [params[n] * p.count / total * p.group_lasso() for n, p in planes.items()]
    return torch.stack(terms).sum()


def precision(problem: Problem, planes: Planes, acts: dict[str, int], prune: bool) -> Policy:
    """The candidates that hold the planes; 0 with ``prune`` for a layer without a plane left."""
    space = problem.space
    tied = {name: group for group in space.groups for name in group}
    policy = {name: LayerBits(bits[0], acts[name]) for name, bits in space.weight_bits.items()}
    for name, each in planes.items():
        most = max(planes[n].bits for n in tied.get(name, (name,)) if n in planes)
        enough = min(b for b in space.weight_bits[name] if b >= most)
        weight = PRUNED if prune and each.bits == 0 else enough
        policy[name] = LayerBits(weight, enough if space.paired else acts[name])
    for layer in space.layers:
        if layer.shared in planes:
            own = policy[layer.shared]
            policy[layer.name] = own if space.paired else LayerBits(own.weight, acts[layer.name])
    return Policy(policy)
