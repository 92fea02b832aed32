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

from frameworks.core.budget import TOLERANCE, InfeasibleBudget
from frameworks.core.card import Card
from frameworks.core.evaluation.train import Recipe
from frameworks.core.framework import Framework
from frameworks.core.policy import Policy
from frameworks.core.problem import Problem
from frameworks.core.registry import register
from frameworks.core.solution import Solution
from frameworks.heuristic.memory_driven import quantizer  # noqa: F401 (registers the scheme)
from frameworks.heuristic.memory_driven.rules import Cuts, cut_activations, cut_weights

READ_ONLY = ("flash", "size")
"""Metrics of read-only memory: what weights take, which fewer weight bits lower."""
READ_WRITE = "ram"
"""The metric of read-write memory: the most that a layer's input and output take together."""


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
            "Where a layer may not have half its bits, a cut goes to the next candidate below.",
            "The released rule for activations never ends where a limit cannot be met, and that "
            "for weights returns -1; here both raise.",
            "In the released code's per-layer mode all layers count as folded when the size is "
            "first taken, and the extras of ICN come in from the second time on; here "
            "(hardware.weights=per_layer) they are in from the start.",
            "Training: the rate is 1e-4 with a tenth from the middle and a hundredth from three "
            "quarters on (published: half from epoch 5 and a tenth from epoch 8 of 10). Statistics "
            "of BatchNorm are not frozen after the first epoch. Activations are rounded to the "
            "nearest level, not down. Integer-only deployment (ICN's M0 and N0) is not part of it.",
        ),
    )
    recipe: ClassVar[Recipe | None] = Recipe(
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


def _meets(costs: Mapping[str, float], asked: Mapping[str, float]) -> bool:
    return all(costs[metric] <= limit * (1 + TOLERANCE) for metric, limit in asked.items())


def _notes(problem: Problem, policy: Policy, cuts: Cuts) -> dict[str, Any]:
    costs = problem.cost(policy)
    taken = {metric: costs[metric] for metric in limits(problem)}
    return {"memory": taken, "cuts": [list(cut) for cut in cuts.made]}
