"""Towards Mixed-Precision Quantization of Neural Networks via Constrained Optimization.

Chen, Wang and Cheng, ICCV 2021, arXiv 2110.06554 (MPQCO). Bits are the solution of

    minimise L(Q(w))   subject to   cost(b) <= limit,

which four steps bring to a knapsack:

1. Second-order Taylor expansion at a trained w, where the gradient is near 0, without the terms
   between layers: L(Q(w)) - L(w) ~ sum_i 1/2 dw_i^T H_i dw_i with dw_i(b) = Q_b(w_i) - w_i.
2. The Hessian by the chain rule without the second derivatives of the network's outputs, and with
   cross-entropy's one-hot label y (eq. 11), of N = 1024 images with outputs f = softmax:

       Omega_i(b) = 1/(2N) sum_n [ (df_ny / dw_i . dw_i(b)) / f_ny ]^2
                  = 1/(2N) sum_n (grad_i l_n . dw_i(b))^2,

   with the very move dw_i(b) of the quantizer, squared image by image; a backward pass an image.
   ``form=ggn`` keeps the whole of cross-entropy's curvature, diag(p) - p p^T, in its place.
3. A multiple-choice knapsack: one bit width a layer, minimise sum_i Omega_i(b_i) within the limit.
4. Proposition 1 drops what no best choice needs, Algorithm 1 takes the largest
   (Omega_i(b) - Omega_i(b')) / (cost_i(b') - cost_i(b)) that fits, from the fewest bits on.

After that the network is trained at these bits, with learned step sizes. Weights have the ranges of
the protocol's quantizer, one an output channel, where the paper has one a layer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from frameworks.core.card import Card
from frameworks.core.estimators.derivatives import twice_differentiable
from frameworks.core.evaluation.train import Recipe
from frameworks.core.framework import ScoringFramework
from frameworks.core.policy import VALID_BITS, Pair, Policy
from frameworks.core.problem import Problem
from frameworks.core.quantizers.base import Quantizer
from frameworks.core.registry import register
from frameworks.core.solution import Scores, Solution
from frameworks.core.solvers.limits import InfeasibleBudget
from frameworks.core.solvers.milp import Entry, multiple_choice, summed, tied
from frameworks.heuristic.mpqco.greedy import greedy
from frameworks.heuristic.mpqco.taylor import FORMS, Taylor

Menu = Mapping[str, Mapping[Pair, Entry]]
"""Of each layer's pairs the loss, and the cost in every metric."""
SOLVERS = ("greedy", "exact")


@register
@dataclass
class MPQCO(ScoringFramework):
    """Squared products of gradients and quantization errors, and a knapsack.

    Attributes:
        images: labelled training images behind the gradients.
        batch: images that go through the network together.
        form: of the Hessian, ``fisher`` (the paper's) or ``ggn``.
        solver: ``greedy`` (the paper's) or ``exact``; the notes have the losses of both.
        act_bits: activation bits of all layers, by hand as in the paper (the nearest that a layer
            may take); 0 decides them like those of weights.
    """

    name: ClassVar[str] = "mpqco"
    card: ClassVar[Card] = Card(
        title="Towards Mixed-Precision Quantization of Neural Networks via Constrained "
        "Optimization",
        arxiv="2110.06554",
        year=2021,
        venue="ICCV",
        category="heuristic",
        quantizer="mse",
        quantization=("deterministic rounding", "learned range"),
        granularity="layer",
        searches=("weight", "act"),
        needs=frozenset({"calibration", "train", "separable_cost"}),
        deviations=(
            "The paper searches the bits of weights and sets those of activations by hand "
            "(act_bits). Where activation bits are free, they have the same term, with the "
            "gradient over the layer's input and that input's quantization error.",
            "The paper's cost is the model size; any cost that is a sum over layers takes its "
            "place, and of several limits their common price.",
            "Of the greedy algorithm neither the direction nor what follows a step that does not "
            "fit is known: it goes up from the fewest bits, and other layers go on. Where the "
            "fewest do not meet several limits at once, the exact solution takes its place.",
            "The gradients are those of the loss, as the formula's; a third party's code divides "
            "the logit's gradient by the logit.",
            "Of the fine-tuning nothing was found: it is an ordinary one with learned ranges.",
            "The scores are those of the network with BatchNorm's stored statistics; without "
            "training these are corrected, which takes away more of the weights' error than of the "
            "activations' (ResNet-8 on Fashion-MNIST, one seed: at W3A8 the loss rises by 0.009 "
            "and the scores say 0.089, at W8A3 by 0.016 and 0.047): weights get too many bits.",
            "Without labels (objective=kl) the expectation over the network's own answers takes "
            "the place of the label; by its answers alone (objective=agreement) the paper's form "
            "falls with the square of how unsure the network is.",
        ),
    )
    recipe: ClassVar[Recipe | None] = Recipe(
        epochs=90, batch=128, lr=0.01, momentum=0.9, weight_decay=1e-4, augment=True
    )

    images: int = 1024
    batch: int = 64
    form: str = "fisher"
    solver: str = "greedy"
    act_bits: int = 0

    def validate(self) -> None:
        super().validate()
        for name, value, known in (("form", self.form, FORMS), ("solver", self.solver, SOLVERS)):
            if value not in known:
                raise ValueError(f"{name} = {value!r}: choose from {list(known)}")
        if self.act_bits and self.act_bits not in VALID_BITS:
            raise ValueError(f"act_bits = {self.act_bits}: 0 or one of {sorted(VALID_BITS)}")

    def score(self, problem: Problem) -> Scores:
        """Steps 1 and 2."""
        split = problem.train.subset(self.images, problem.generator("fisher"))
        model, space = problem.float_model(), problem.space
        problem.progress(0, 1, "gradients of single images")
        with twice_differentiable(model):
            weights, inputs = Taylor(
                model,
                # A weight that is stored once has the gradient of all its uses.
                {name: moves(problem, name) for name in space.free_weights},
                {
                    x.name: quantizers(problem, x.name)
                    for x in space.free_layers
                    if len(space.act_bits[x.name]) > 1
                },
                self.form,
                problem.generator("signs"),
            )(list(split.batches(self.batch)))
        found = (("weight", weights), ("act", inputs))
        return Scores(
            {k: {n: {str(b): v for b, v in row.items()} for n, row in t.items()} for k, t in found}
        )

    def losses(self, problem: Problem, scores: Scores) -> dict[str, dict[Pair, float]]:
        return {
            name: {pair: omega(scores.values, name, *pair) for pair in pairs}
            for name, pairs in problem.layer_entries().items()
        }

    def solve(self, problem: Problem, scores: Scores) -> Solution:
        """Steps 3 and 4."""
        menu = self._menu(problem, scores)
        best = multiple_choice(menu, problem.budget.limits, ties=problem.space.groups)
        walked = walk(problem, menu)
        chosen = best if self.solver == "exact" or walked is None else walked
        policy = Policy({name: chosen[name] for name in problem.space.names})
        problem.checkpoint(policy)
        return Solution(
            policy,
            notes={
                "loss": total(menu, chosen),
                "exact": total(menu, best),
                "greedy": None if walked is None else total(menu, walked),
            },
        )

    def _menu(self, problem: Problem, scores: Scores) -> Menu:
        table, wish = self.losses(problem, scores), self.act_bits
        menu: dict[str, dict[Pair, Entry]] = {}
        for name, options in problem.layer_entries().items():
            acts = {a for _, a in options}
            if wish and not problem.space.paired:
                acts = {min(acts, key=lambda bits: (abs(bits - wish), bits))}
            menu[name] = {p: (table[name][p], cost) for p, cost in options.items() if p[1] in acts}
        return menu


@torch.no_grad()
def moves(problem: Problem, name: str) -> dict[int, torch.Tensor]:
    """What quantization adds to a layer's weights, by bits."""
    weight = problem.network.get_submodule(name).get_parameter("weight").detach()
    bits = problem.space.weight_bits[name]
    return {b: problem.quantizer(name, "weight", b)(weight) - weight for b in bits}


def quantizers(problem: Problem, name: str) -> dict[int, Quantizer]:
    """The quantizers of a layer's inputs, by bits."""
    return {b: problem.quantizer(name, "act", b) for b in problem.space.act_bits[name]}


def omega(scores: Mapping[str, Any], name: str, weight: int, act: int) -> float:
    """The second-order term of a layer at a pair of bits; what is not searched has none."""
    found = (scores["weight"].get(name, {}), weight), (scores["act"].get(name, {}), act)
    return sum(float(row.get(str(bits), 0.0)) for row, bits in found)


def walk(problem: Problem, menu: Menu) -> dict[str, Pair] | None:
    """Step 4, tied layers as one; None where the cheapest do not meet several limits at once."""
    budget = problem.budget
    groups = {group[0]: group for group in tied(list(menu), problem.space.groups)}
    merged = {first: summed(menu, group, budget.limits) for first, group in groups.items()}

    def fits(chosen: Mapping[str, Pair]) -> bool:
        costs = [merged[name][pair][1] for name, pair in chosen.items()]
        return budget.allows({m: math.fsum(cost[m] for cost in costs) for m in budget.limits})

    table = {
        name: {pair: (loss, budget.price(cost)) for pair, (loss, cost) in options.items()}
        for name, options in merged.items()
    }
    try:
        chosen = greedy(table, fits)
    except InfeasibleBudget:
        return None
    return {name: chosen[first] for first, group in groups.items() for name in group}


def total(menu: Menu, chosen: Mapping[str, Pair]) -> float:
    """The summed loss of a choice."""
    return math.fsum(menu[name][pair][0] for name, pair in chosen.items())
