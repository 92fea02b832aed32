"""Memory-Driven Mixed Low Precision Quantization For Enabling Deep Network Inference On
Microcontrollers (Rusci, Capotondi and Benini, MLSys 2020), arXiv 1905.13082.

A microcontroller has read-only memory (flash) for the weights and what belongs to them, and
read-write memory (RAM) for the activations. Bits Q are 8, 4 or 2 for each tensor, and with them

    sum_i mem(w_i, Q_w^i) + extra_i <= M_RO                              (weights)
    mem(x_i, Q_x^i) + mem(y_i, Q_y^i) <= M_RW   for each layer i         (activations)

have to hold; a layer's output is the next one's input, Q_y^i = Q_x^(i+1). All start at 8 bits and
two rules cut them, without any look at data or accuracy:

1. Activations: where a layer's two tensors are too large, the one with more bits is
   halved, or of equal ones the larger; sweeps forward over outputs and backward over inputs.
2. Weights: while all are too large, the first layer whose share of the weight bytes
   is within delta = 5 % of the largest share is halved.

How much extra_i is, in bytes, the hardware says: parameters of integer channel normalization (ICN),
as in `frameworks.hardware.mcu`. The network is trained at the found bits (`recipe`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from frameworks.core.card import Card
from frameworks.core.evaluation.train import Recipe
from frameworks.core.framework import Framework
from frameworks.core.policy import Policy
from frameworks.core.problem import Problem
from frameworks.core.registry import register
from frameworks.core.solution import Solution
from frameworks.core.solvers.limits import TOLERANCE, InfeasibleBudget
from frameworks.heuristic.memory_driven import quantizer  # noqa: F401 (registers the scheme)
from frameworks.heuristic.memory_driven.rules import MOST, Cuts, cut_activations, cut_weights

READ_ONLY = ("flash", "size")
"""Metrics of read-only memory: what weights take, which fewer weight bits lower."""
READ_WRITE = "ram"
"""The metric of read-write memory: the most that a layer's input and output take together."""

PER_LAYER = "per_layer"
"""What a target says of the ``weights`` that it prices, if they have one range a layer."""


@dataclass(frozen=True)
class Halved(Recipe):
    """The published steps of the rate: half from epoch 5 and a tenth from epoch 8 of 10."""

    def rate(self, progress: float) -> float:
        return 0.1 if progress >= 0.8 else 0.5 if progress >= 0.5 else 1.0


@register
@dataclass
class MemoryDriven(Framework):
    """Bits cut by rule until weights fit into flash and activations into RAM.

    Attributes:
        margin: delta, the share of all weight bytes below the largest layer's within which an
            earlier layer is cut first.
    """

    name: ClassVar[str] = "memory_driven"
    card: ClassVar[Card] = Card(
        title="Memory-Driven Mixed Low Precision Quantization For Enabling Deep Network Inference "
        "On Microcontrollers",
        arxiv="1905.13082",
        year=2019,
        venue="MLSys",
        category="heuristic",
        quantizer="rusci",
        quantization=("learned range", "deterministic rounding"),
        granularity="layer",
        searches=("weight", "act"),
        needs=frozenset(),
        hardware_aware=True,
        deviations=(
            "Only limits of memory can be met: flash or size by the rule for weights, ram by that "
            "for activations, fill of the target mcu by both. A limit that the budget does not "
            "state is none.",
            "Layers count as a chain, as in the released code; in a residual network a shortcut "
            "that waits in memory is not counted.",
            "Pinned layers are not cut (the paper pins the network's input and output alone). Tied "
            "layers are cut together and count as one, with the bytes of all; where weights and "
            "activations must have equal bits, a cut is one of both.",
            "Where a layer may not have half its bits, a cut goes to the most at or below half, so "
            "that of 2, 5 and 8 bits it takes 8 to 2; where none is that low, to the next lower "
            "ones.",
            "The released rule for activations never ends where a limit cannot be met, and that "
            "for weights returns -1; here both raise.",
            "In the released code's per-layer mode all layers count as folded when the size is "
            "first taken, and the extras of ICN come in from the second time on; here "
            "(hardware.weights=per_layer) they are in from the start. The released quantizer of "
            "that mode, one range a layer with ends learned as PACT's, is not built: it is refused "
            "with weights that have a range for each channel, and runs with those of lsq.",
            "Clips of activations start at the least squared error and have no weight decay "
            "(released: at 6, with 1e-4): networks here are not of ReLU6, nor trained with clips.",
            "BatchNorm goes on learning (released: statistics, gamma and beta are frozen after the "
            "first epoch, so that ICN can be made of them), and there is no dropout of 0.2 before "
            "the classifier, as the networks are taken as they are. The network's input has the "
            "range of its sample (released: [-1, 1] in 255 steps).",
            "Activations are rounded to the nearest level, not down. Integer-only deployment "
            "(ICN's M0 and N0) is not part of it.",
        ),
    )
    recipe: ClassVar[Recipe | None] = Halved(
        epochs=10, batch=128, optimizer="adam", lr=1e-4, range_lr=1.0, schedule="step",
        weight_decay=0.0, augment=True,
    )  # fmt: skip

    margin: float = 0.05

    def validate(self) -> None:
        super().validate()
        if not 0 <= self.margin <= 1:
            raise ValueError(f"margin = {self.margin}: give a share from 0 to 1")

    def skip(self, problem: Problem) -> str | None:
        known = {*READ_ONLY, READ_WRITE}
        if other := [metric for metric in limits(problem) if metric not in known]:
            return (
                f"{self.name} cuts bits for limits of memory (flash, size, ram); the budget limits "
                f"{', '.join(other)}"
            )
        if getattr(problem.target, "weights", "") == PER_LAYER and _ranges(problem) > 1:
            return (
                f"{problem.target.name} prices weights of one range a layer (hardware.weights="
                f"{PER_LAYER}); those of quantizer {problem.scheme.name} have one for each channel:"
                " choose another one, such as protocol.quantizer=lsq, or "
                "hardware.weights=per_channel"
            )
        return super().skip(problem)

    def search(self, problem: Problem) -> Solution:
        asked = limits(problem)
        cuts = Cuts(problem.space)
        if READ_WRITE in asked:
            cut_activations(problem.layers, cuts, asked[READ_WRITE])
        problem.checkpoint(cuts.policy())
        read_only = {metric: asked[metric] for metric in READ_ONLY if metric in asked}
        cut_weights(
            problem.layers,
            cuts,
            lambda policy: _meets(problem.cost(policy), read_only),
            self.margin,
        )
        policy = cuts.policy()
        if not problem.within(policy):
            raise InfeasibleBudget(
                f"{problem.target.name} prices the policy of the cut rules over {problem.budget}"
            )
        problem.checkpoint(policy)
        return Solution(policy, notes=_notes(problem, policy, cuts))


def limits(problem: Problem) -> dict[str, float]:
    """The limit of each metric, with those that a limit on another one stands for."""
    found: dict[str, float] = {}
    for metric, limit in problem.budget.limits.items():
        for name, value in problem.target.implied(metric, limit).items():
            found[name] = min(value, found.get(name, value))
    return found


def _ranges(problem: Problem) -> int:
    """How many ranges the weights of the widest layer have."""
    widest = max(problem.layers, key=lambda layer: layer.out_channels).name
    weight = problem.network.get_submodule(widest).weight
    assert isinstance(weight, Tensor)
    return problem.quantizer(widest, "weight", MOST).codes(weight.detach()).scale.numel()


def _meets(costs: Mapping[str, float], asked: Mapping[str, float]) -> bool:
    return all(costs[metric] <= limit * (1 + TOLERANCE) for metric, limit in asked.items())


def _notes(problem: Problem, policy: Policy, cuts: Cuts) -> dict[str, Any]:
    costs = problem.cost(policy)
    taken = {metric: costs[metric] for metric in limits(problem)}
    return {"memory": taken, "cuts": [list(cut) for cut in cuts.made]}
