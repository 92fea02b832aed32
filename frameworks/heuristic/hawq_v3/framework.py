"""HAWQ-V3: Dyadic Neural Network Quantization (Yao et al., ICML 2021), arXiv 2011.10680.

Sensitivity of layer i at b bits, that of HAWQ-V2 (Dong et al., arXiv 1911.03852):

    Omega_i(b) = Tr(H_i) / n_i * ||Q_b(W_i) - W_i||_2^2,    H_i = d^2 L / dW_i^2,

with the trace over 512 images: by about 50 probes of Hutchinson's estimator in the paper, here by
`frameworks.core.estimators.traces`, the same quantity with less noise. The bits solve the integer
linear programme of the paper's section on mixed precision,

    minimise  sum_i Omega_i(b_i)   subject to   cost(b) <= limit,

with the cost in size, BOPs or latency; the convolution on a block's shortcut takes the bits of the
block's first convolution, and the first and the last layer stay outside (pinned by the protocol).
Weights and activations of a layer have the same bits, 4 or 8, and only weights a sensitivity.

What goes beyond the paper: other bits than 4 and 8 (`bits`), and activation bits of their own
(`paired`), for which HAWQ-V2's activation term is added, with the Hessian over the layer's input a
and expectations over images:

    Omega_i(w, a) = Omega_i(w) + E[Tr(H_a)] / n_a * E||Q_a(a) - a||_2^2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from frameworks.core.card import Card
from frameworks.core.estimators.perturbation import second_order_scores, sensitivity
from frameworks.core.evaluation.train import Recipe
from frameworks.core.framework import ScoringFramework
from frameworks.core.policy import VALID_BITS, Pair, Policy
from frameworks.core.problem import Problem
from frameworks.core.registry import register
from frameworks.core.search.matched import Menu, matched
from frameworks.core.solution import Scores, Solution
from frameworks.core.solvers.limits import InfeasibleBudget
from frameworks.core.solvers.milp import multiple_choice
from frameworks.heuristic.hawq_v3.shortcuts import downsample_ties


@register
@dataclass
class HAWQV3(ScoringFramework):
    """Hessian-trace-weighted quantization errors and an exact integer programme.

    Attributes:
        images: training images behind the Hessian.
        batch: images that share their probes' signs; how many go through the network together is
            for the memory to say. Where the estimate is exact, no number depends on it.
        probes: at most this many backward passes, and Hutchinson probes, of each image.
        tolerance: relative change of the running mean at which the estimate stops earlier.
        tie_downsample: a shortcut's convolution takes the bits of its block's first convolution.
        bits: the candidates; empty for all that the protocol has. They give way to these where a
            layer may not take them, and where they cannot meet the budget; the notes say so.
        paired: weights and activations of a layer have the same bits (or, where these cannot be
            had, activations the nearest); else both are free and activations have a sensitivity.
    """

    name: ClassVar[str] = "hawq_v3"
    card: ClassVar[Card] = Card(
        title="HAWQ-V3: Dyadic Neural Network Quantization",
        arxiv="2011.10680",
        year=2021,
        venue="ICML",
        category="heuristic",
        quantizer="minmax",
        quantization=("deterministic rounding",),
        granularity="layer",
        searches=("weight", "act"),
        needs=frozenset({"calibration", "train", "second_order", "separable_cost"}),
        hardware_aware=True,
        deviations=(
            "Where a layer lacks 4 or 8 bits, or these cannot meet the budget, the same method "
            "chooses among all that the protocol has; activations that cannot have the weights' "
            "bits take the nearest. paired=false frees them and adds HAWQ-V2's activation term.",
            "Traces may come out negative (the theory assumes a minimum of the loss): the scores "
            "keep the sign, and the magnitude weighs the errors.",
            "The traces are those of Hutchinson's estimator with less noise (see `traces`).",
            "The errors are those of weights not folded with BatchNorm; the paper does not say.",
            "The estimate's settings (512 images, 50 probes) are HAWQ-V2's; the V3 code starts "
            "from given traces.",
            "Integer-only inference, dyadic rescaling and distillation are left out: they are not "
            "part of the search.",
        ),
    )
    recipe: ClassVar[Recipe | None] = Recipe(
        epochs=90, batch=128, lr=1e-4, momentum=0.9, weight_decay=1e-4, augment=True
    )

    images: int = 512
    batch: int = 128
    probes: int = 50
    tolerance: float = 1e-3
    tie_downsample: bool = True
    bits: list[int] = field(default_factory=lambda: [4, 8])
    paired: bool = True

    def validate(self) -> None:
        super().validate()
        if not VALID_BITS.issuperset(self.bits):
            raise ValueError(f"bits = {self.bits}: each must be one of {sorted(VALID_BITS)}")

    def score(self, problem: Problem) -> Scores:
        return Scores(
            second_order_scores(
                problem,
                weights=[layer.name for layer in problem.space.free_layers],
                inputs=self._activation_names(problem),
                images=self.images,
                batch=self.batch,
                probes=self.probes,
                tolerance=self.tolerance,
            )
        )

    def _activation_names(self, problem: Problem) -> list[str]:
        """The layers whose activation bits are a decision of their own."""
        if self.paired:
            return []
        choices = [c for c in problem.space.choices if c.kind == "act"]
        return [name for choice in choices for name in choice.layers]

    def losses(self, problem: Problem, scores: Scores) -> dict[str, dict[Pair, float]]:
        menu = problem.layer_entries()
        return {n: {p: sensitivity(scores.values, n, *p) for p in menu[n]} for n in menu}

    def solve(self, problem: Problem, scores: Scores) -> Solution:
        menus = self._menus(problem)
        for menu in menus:
            try:
                bits = self._assigned(problem, scores, menu)
                break
            except InfeasibleBudget:
                if menu is menus[-1]:
                    raise
        policy = Policy({layer.name: bits[layer.name] for layer in problem.layers})
        problem.checkpoint(policy)
        total = sum(sensitivity(scores.values, name, *pair) for name, pair in bits.items())
        negative = [n for n, t in scores.values["weight_trace"].items() if t < 0]
        bits_had = sorted({w for x in problem.space.free_layers for w, _ in menu[x.name]})
        notes = {"omega": total, "negative_traces": negative, "candidates": bits_had}
        return Solution(policy, notes=notes)

    def _menus(self, problem: Problem) -> list[Menu]:
        """What each layer may take at what cost: first with `bits`, then with all there are."""
        whole: Menu = problem.layer_entries()
        if self.paired:
            whole = matched(whole, problem.space.groups)
        free = [layer.name for layer in problem.space.free_layers]
        few = {
            name: {
                pair: cost
                for pair, cost in options.items()
                if name not in free or set(pair[: 1 if self.paired else 2]) <= set(self.bits)
            }
            for name, options in whole.items()
        }
        known = self.bits and all({w for w, _ in few[n]} == set(self.bits) for n in free)
        return [few, whole] if known else [whole]

    def _assigned(self, problem: Problem, scores: Scores, menu: Menu) -> dict[str, Pair]:
        ties = list(problem.space.groups)
        if self.tie_downsample:
            ties += [
                (first, shortcut)
                for first, shortcut in downsample_ties(problem.layers)
                if menu[first].keys() == menu[shortcut].keys()
            ]
        return assign(scores.values, menu, problem.budget.limits, ties)


def assign(
    scores: Mapping[str, Any],
    costs: Menu,
    limits: Mapping[str, float],
    ties: Sequence[Sequence[str]],
) -> dict[str, Pair]:
    """The integer programme: the bits of least total Omega within the limits.

    Raises:
        InfeasibleBudget: no bits are within the limits.
    """
    table = {
        name: {pair: (sensitivity(scores, name, *pair), cost) for pair, cost in options.items()}
        for name, options in costs.items()
    }
    return multiple_choice(table, limits, ties=ties)
