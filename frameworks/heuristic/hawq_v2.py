"""HAWQ-V2: Hessian Aware trace-Weighted Quantization of Neural Networks, arXiv 1911.03852.

Dong et al., NeurIPS 2020. Where HAWQ takes the top eigenvalue, here the average of all eigenvalues
of a layer's Hessian H_i = d^2 L / dW_i^2 says how sensitive it is: at a minimum of the loss, for a
perturbation that lies along all eigenvectors alike (the paper's Lemma 1),

    E[L(W_i + dW_i) - L(W_i)] = Tr(H_i) / (2 n_i) * ||dW_i||_2^2.

1. Traces, without forming H, from products with random signs z (Hutchinson):
   Tr(H) = E[z^T H z]. Over a layer's input activations a, too: images do not mix, so that the
   Hessian is block diagonal and its trace is taken image by image.
2. Sensitivities,

       Omega_i = Tr(H_i) / n_i * ||Q(W_i) - W_i||_2^2,

   and for activations Omega_i^a = E[Tr(H_a)] / n_a * E||Q(a) - a||_2^2.
3. Settings: a layer with less average trace never gets more weight bits. Of m bit widths for L
   layers C(L + m - 1, m - 1) settings are left of the m^L (54 layers, 3 widths: 1540 of 5.8e25).
4. Pareto frontier: of all these, those that no other one beats in both the cost and
   Omega = sum_i Omega_i; the one of least Omega within the budget is taken, without a hand in it.

Activation bits are decided with the weight bits, on one frontier, as costs such as bit operations
depend on both. After that the network is trained at these bits as a whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, ClassVar

from frameworks.core.card import Card
from frameworks.core.estimators.perturbation import second_order_scores, sensitivity
from frameworks.core.evaluation.train import Recipe
from frameworks.core.framework import ScoringFramework
from frameworks.core.policy import Pair, Policy
from frameworks.core.problem import Problem
from frameworks.core.registry import register
from frameworks.core.search.frontier import Walk, walk
from frameworks.core.solution import Scores, Solution
from frameworks.core.solvers.limits import InfeasibleBudget
from frameworks.core.space import Space


@register
@dataclass
class HAWQV2(ScoringFramework):
    """Average Hessian traces, squared errors, and the Pareto frontier of the settings in order.

    Attributes:
        images: training images behind the Hessian.
        batch: images that share their probes' signs; how many go through the network together is
            for the memory to say. Where the estimate is exact, no number depends on it.
        probes: at most this many backward passes, and Hutchinson probes, of each image.
        tolerance: relative change of the running mean at which the estimate stops earlier.
        ordered: whether weight bits fall along the average traces, as in the paper; else the
            frontier is that of all policies.
        bins: longest frontier kept exactly; a longer one is thinned by bins of cost.
        points: at most this many points of the frontier are reported.
    """

    name: ClassVar[str] = "hawq_v2"
    card: ClassVar[Card] = Card(
        title="HAWQ-V2: Hessian Aware trace-Weighted Quantization of Neural Networks",
        arxiv="1911.03852",
        year=2020,
        venue="NeurIPS",
        category="heuristic",
        quantizer="minmax",
        quantization=("deterministic rounding",),
        granularity="layer",
        searches=("weight", "act"),
        needs=frozenset({"calibration", "train", "second_order", "separable_cost"}),
        deviations=(
            "The paper's cost is the model size, and activations have a size of their own. Here "
            "any cost that is a sum over layers takes their place, and weights and activations "
            "share one frontier.",
            "The order by average traces binds weight bits. Activation bits are free: traces over "
            "inputs depend on their scale. Where bits are paired the order binds both; where it "
            "leaves no policy within the budget, the frontier is that of all policies, and the "
            "notes say so.",
            "The paper lists the settings and sorts them; dynamic programming finds the same "
            "frontier, exactly up to `bins` points.",
            "The traces are those of Hutchinson's estimator with less noise (see `traces`). They "
            "may come out negative (the theory assumes a minimum of the loss): the scores keep the "
            "sign, and the magnitude orders the layers and weighs the errors.",
            "The estimate's settings (512 images, 50 probes) and the quantizer (the weights' whole "
            "range) are recalled, not read: neither code nor pseudocode was published.",
            "Of the fine-tuning no recipe was found: it is that of HAWQ-V3's code.",
            "The scores are those of the network with BatchNorm's stored statistics; without "
            "training these are corrected, which takes away more of the weights' error than of the "
            "activations' (as measured on `mpqco`'s card; not measured for these scores).",
        ),
    )
    recipe: ClassVar[Recipe | None] = Recipe(
        epochs=90, batch=128, lr=1e-4, momentum=0.9, weight_decay=1e-4, augment=True
    )

    images: int = 512
    batch: int = 128
    probes: int = 50
    tolerance: float = 1e-3
    ordered: bool = True
    bins: int = 10_000
    points: int = 16

    def score(self, problem: Problem) -> Scores:
        """Steps 1 and 2, whose costly part is the traces."""
        space = problem.space
        return Scores(
            second_order_scores(
                problem,
                weights=space.free_weights,
                inputs=[x.name for x in space.free_layers if len(space.act_bits[x.name]) > 1],
                images=self.images,
                batch=self.batch,
                probes=self.probes,
                tolerance=self.tolerance,
            )
        )

    def losses(self, problem: Problem, scores: Scores) -> dict[str, dict[Pair, float]]:
        menu = problem.layer_costs()
        return {n: {p: sensitivity(scores.values, n, *p) for p in menu[n]} for n in menu}

    def solve(self, problem: Problem, scores: Scores) -> Solution:
        """Steps 3 and 4."""
        order = ranking(problem.space, scores.values)
        found, kept = self._walk(problem, scores, order)
        policy = Policy(found.best.options)
        problem.checkpoint(policy)
        negative = [
            f"{kind} {name}"
            for kind in ("weight", "act")
            for name, trace in scores.values[f"{kind}_trace"].items()
            if trace < 0
        ]
        return Solution(
            policy,
            front=found.front,
            notes={
                "omega": found.best.value,
                "frontier": found.length,
                "ranking": order,
                "ordered": kept,
                "negative_traces": negative,
            },
        )

    def _walk(self, problem: Problem, scores: Scores, order: list[str]) -> tuple[Walk, bool]:
        """The frontier, and whether its policies keep the order.

        They cannot where layers may not take the same bits, or where fewer bits cost more.
        """
        table = self.losses(problem, scores)

        def frontier(descending: list[str]) -> Walk:
            return walk(problem, table, bins=self.bins, points=self.points, descending=descending)

        if self.ordered:
            with suppress(InfeasibleBudget):
                return frontier(order), True
        return frontier([]), False


def ranking(space: Space, scores: Mapping[str, Any]) -> list[str]:
    """Layers by descending average trace of their weights, equal ones in execution order.

    Layers that share their bits are one, whose average is over all their weights.
    """
    traces: Mapping[str, float] = scores["weight_trace"]
    params = {layer.name: layer.params for layer in space.layers}
    found = {}
    for choice in space.choices:
        names = [name for name in choice.layers if name in traces]
        if choice.kind != "act" and names:
            total = sum(abs(traces[name]) * params[name] for name in names)
            found[choice.layers[0]] = total / sum(params[name] for name in names)
    return sorted(found, key=lambda name: -found[name])
