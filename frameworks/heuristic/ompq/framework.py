"""OMPQ: Orthogonal Mixed Precision Quantization (Ma et al., AAAI 2023), arXiv 2109.07865.

Layers are functions of the images. Over a few images, with features X_i of layer i and Gram
matrices K_i = X_i X_i^T, the orthogonality metric of the paper's section on network orthogonality

    ORM_ij = ||X_j^T X_i||_F^2 / (||X_i^T X_i||_F ||X_j^T X_j||_F) = <K_i, K_j> / (||K_i|| ||K_j||)

says how much of layer i the others have, too, and its importance falls with that:

    gamma_i = sum_{j != i} ORM_ij,     theta_i = exp(-beta gamma_i).

The more orthogonal a layer, the more bits: with x_i = b_i / 8 and L layers (i from 0) a linear
programme is solved,

    maximise  sum_i x_i * 1 / (L - i) sum_{j >= i} theta_j
    subject to  sum_i x_i P_i <= limit,   low <= x_i <= high,

with P_i the layer's size at 8 bits. Bits are 4 to 8 where training follows (QAT), 2 to 4 where it
does not (PTQ); the convolution on a shortcut has the bits of the layer that its output is added
to. Where the programme ends between two widths, layers are rounded up or down so that the cost is
the nearest below the limit. All activations have the same bits. No labels, no quantizer and no
gradient of a loss are needed; nothing is searched.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import ClassVar

import torch

from frameworks.core.card import Card
from frameworks.core.evaluation.train import Recipe
from frameworks.core.framework import ScoringFramework
from frameworks.core.policy import VALID_BITS, Policy
from frameworks.core.problem import Problem
from frameworks.core.registry import register
from frameworks.core.search.likeness import likeness
from frameworks.core.solution import Scores, Solution
from frameworks.core.solvers.limits import InfeasibleBudget
from frameworks.heuristic.ompq.features import functions, grams, readers
from frameworks.heuristic.ompq.menu import Menu, menu_of, nearest, ranges, ties_of
from frameworks.heuristic.ompq.orthogonality import importance, independence, orm, overlap
from frameworks.heuristic.ompq.programme import SOLVERS, solved

LIKENESS = 256
"""Calibration images by which activation bits are chosen, at most."""


@register
@dataclass
class OMPQ(ScoringFramework):
    """Orthogonality of layers over a few images, and a linear programme.

    Attributes:
        images: calibration images that the features are of, at most; at least 2.
        beta: how much orthogonality weighs: theta = exp(-beta gamma).
        centred: centre the Gram matrices, as the released code does; the paper's formula has none.
        batch_statistics: BatchNorm normalises by these images, as in the released code.
        bits: the programme's weight bits lie between two neighbours of these, the highest that the
            budget leaves room for; empty, or where all cost too much: among all candidates.
        act_bits: of all activations; 0: those whose answers are nearest to the float network's.
        solver: ``linear``, the programme's optimum; or ``slsqp``, what the released code makes.
    """

    name: ClassVar[str] = "ompq"
    card: ClassVar[Card] = Card(
        title="OMPQ: Orthogonal Mixed Precision Quantization",
        arxiv="2109.07865",
        year=2021,
        venue="AAAI 2023",
        category="heuristic",
        quantizer="minmax",
        quantization=("deterministic rounding",),
        granularity="layer",
        searches=("weight",),
        needs=frozenset({"calibration", "separable_cost"}),
        hardware_aware=False,
        deviations=(
            "beta was set for each network (released: 10, 3.3, 100 and 1e-9); here it is the 10 "
            "of the released example. At it, 0.3 more gamma is a twentieth of theta, so that on "
            "deep networks little but the least gamma counts: up to it the coefficients are about "
            "1 / (L - i). Notes have gamma and theta (in units of its largest, or it vanishes).",
            "The released PTQ lists are no optima of the programme but follow from the layers' "
            "sizes alone: the bits nearest to 4 everywhere, as its solver (SLSQP) makes them if "
            "the coefficients are equal and small (all seven come out so). ResNet-18's beta of 100 "
            "makes them small; with MobileNetV2's (1e-9: all are 1) two of three do not come "
            "out. solver=slsqp does the same; by default the programme is solved.",
            "A layer's feature is what the next layer reads, after normalisation if there is any; "
            "where that is smaller than the layer's output (pooled, or a part), the last tensor of "
            "the output's shape, as in the released code. Layers with one feature have the same "
            "bits, as there for shortcuts. Images are not augmented.",
            "4 to 8 bits or 2 to 4 is decided by the budget, as in all released lists: the former "
            "where 4 bits everywhere fit. A layer that cannot have these has its next lower ones. "
            "Other costs take the size's place; layers differ less in bit operations, so that "
            "1 / (L - i) outweighs these and late layers come first, in the released lists the "
            "small early ones. An integer programme has several limits, or what no rounding fits.",
            "What rounding leaves of the budget goes to the layers that gain most for their cost: "
            "the paper's networks have 16 layers and more, of which a rounded one leaves little.",
            "Activation bits were set by hand, never below 4, beside a budget of size; here each "
            "width is tried, and the one whose answers have the least KL from the float network's "
            "on calibration images is taken. Under bit operations this decides: at 2 bits, 4-bit "
            "weights all but use up the budget, and on ResNet-8 at like=3 any beta from 1e-9 to "
            "100, features before or after pooling, and the metric shuffled among all functions "
            "but the last gave one policy. `raised` in the notes counts the functions above the "
            "range's fewest bits; act_bits sets the width.",
            "The released PTQ is BRECQ (AdaRound of 20000 steps, LSQ of activations of 5000, 1024 "
            "images, MSE ranges), QAT has folded, fixed BatchNorm and moving averages as ranges. "
            "Here both are the protocol's (its rounding=adaround is the nearest to it).",
            "The first and the last layer are as the protocol has them (QAT: 8 bits; PTQ: free).",
            "An optimum leaves all layers but one at a bound, which costs much where few bits are "
            "left: single runs of ResNet-8 on Fashion-MNIST at tight bit operations fell behind "
            "random policies and behind solver=slsqp. Late layers first and activations at 2 bits "
            "(see above) are part of it.",
        ),
    )
    recipe: ClassVar[Recipe | None] = Recipe(
        epochs=90, batch=128, lr=1e-4, momentum=0.9, weight_decay=1e-4, augment=True
    )

    images: int = 32
    beta: float = 10.0
    centred: bool = True
    batch_statistics: bool = True
    bits: list[int] = field(default_factory=lambda: [2, 4, 8])
    act_bits: int = 0
    solver: str = "linear"

    def validate(self) -> None:
        super().validate()
        if self.images < 2:
            raise ValueError(f"images = {self.images}: must be at least 2, to tell functions apart")
        if self.beta < 0:
            raise ValueError(f"beta = {self.beta}: must not be negative")
        wrong = not VALID_BITS.issuperset(self.bits) or self.bits != sorted(set(self.bits))
        if wrong or len(self.bits) == 1:
            raise ValueError(
                f"bits = {self.bits}: give two or more of {sorted(VALID_BITS)}, ascending, or none"
            )
        if self.act_bits not in VALID_BITS:
            raise ValueError(f"act_bits = {self.act_bits}: choose from {sorted(VALID_BITS)}")
        if self.solver not in SOLVERS:
            raise ValueError(f"solver = {self.solver!r}: choose from {list(SOLVERS)}")

    def skip(self, problem: Problem) -> str | None:
        reason = super().skip(problem)
        if reason is None and len(problem.images) < 2:
            return "needs two calibration images: one tells no functions apart"
        return reason

    def score(self, problem: Problem) -> Scores:
        problem.progress(0, 1, "orthogonality of layers")
        model, images = problem.float_model(), problem.images[: self.images]
        free = [n for n, bits in problem.space.weight_bits.items() if len(bits) > 1]
        read_by = readers(model, problem.space.names, images[:1])
        # Gradients of one image's features; the meter sees those that begin at the output alone.
        problem.meter.images_backward += len(problem.layers) - 1
        found = functions(model, read_by, free, images[:1])
        how = {"centred": self.centred, "batch_statistics": self.batch_statistics}
        matrices = grams(model, read_by, found, images, **how)
        return Scores({"layers": [f.layers for f in found], "orm": orm(matrices).tolist()})

    def ratings(self, scores: Scores) -> dict[str, dict[str, float]]:
        """``gamma``, ``theta`` and ``importance`` of each layer with free weight bits.

        The importance is the coefficient of the layer's bits in the programme's objective.
        """
        groups: list[list[str]] = scores.values["layers"]
        metric = torch.tensor(scores.values["orm"], dtype=torch.double)
        gamma = overlap(metric.reshape(len(groups), len(groups)))
        theta = independence(gamma, self.beta, relative=self.solver == "linear")
        found = {"gamma": gamma, "theta": theta, "importance": importance(theta)}
        return {
            key: {n: v for names, v in zip(groups, x.tolist(), strict=True) for n in names}
            for key, x in found.items()
        }

    def losses(self, problem: Problem, scores: Scores) -> dict[str, dict[tuple[int, int], float]]:
        """What the objective loses by bits below 8, once for the layers of one function."""
        weights = self._once(problem, scores)
        return {
            name: {(w, a): weights.get(name, 0.0) * (1 - w / 8) for w, a in pairs}
            for name, pairs in problem.layer_entries().items()
        }

    def solve(self, problem: Problem, scores: Scores) -> Solution:
        found: dict[Policy, tuple[int, int]] = {}
        error: InfeasibleBudget | None = None
        for act in self._act_candidates(problem):
            try:
                policy, raised = self._policy(problem, scores, act)
                found.setdefault(policy, (act, raised))
            except InfeasibleBudget as thrown:
                error = error or thrown
        if not found:
            assert error is not None, "activations have at least one width"
            raise error
        losses = self._losses(problem, list(found))
        best = min(found, key=lambda policy: losses.get(policy, 0.0))
        problem.checkpoint(best)
        tried = {str(found[policy][0]): loss for policy, loss in losses.items()}
        notes = {**self.ratings(scores), "raised": found[best][1], "act_bits": tried}
        return Solution(best, notes=notes)

    def _losses(self, problem: Problem, policies: Sequence[Policy]) -> dict[Policy, float]:
        """KL from the float network's answers, where there are several policies."""
        if len(policies) < 2:
            return {}
        evaluate = likeness(problem, LIKENESS)
        found = {policy: evaluate(policy).loss for policy in policies}
        return {policy: math.inf if math.isnan(x) else x for policy, x in found.items()}

    def _act_candidates(self, problem: Problem) -> list[int]:
        every = problem.space.act_bits.values()
        candidates = sorted({b for bits in every if len(bits) > 1 for b in bits})
        if problem.space.paired or not candidates:
            return [0]  # no choice: pairs decide, or every layer's are pinned
        return [nearest(candidates, self.act_bits)] if self.act_bits else candidates

    def _policy(self, problem: Problem, scores: Scores, act: int) -> tuple[Policy, int]:
        """The programme's bits in the highest range that the budget leaves room for.

        And how many functions have more than the fewest bits of that range.
        """
        whole = menu_of(problem, act)
        for menu in ranges(whole, self.bits):
            with suppress(InfeasibleBudget):
                return self._solved(problem, scores, menu)
        return self._solved(problem, scores, whole)

    def _solved(self, problem: Problem, scores: Scores, menu: Menu) -> tuple[Policy, int]:
        weights = self._once(problem, scores)
        table = {
            name: {w: (-weights.get(name, 0.0) * w / 8, costs) for w, (_, costs) in options.items()}
            for name, options in menu.items()
        }
        groups: list[list[str]] = scores.values["layers"]
        ties = [*problem.space.groups, *ties_of(problem, groups)]
        bits = solved(table, problem.budget, ties, self.solver)
        raised = sum(bits[names[0]] > min(menu[names[0]]) for names in groups)
        return Policy({name: (bits[name], menu[name][bits[name]][0]) for name in menu}), raised

    def _once(self, problem: Problem, scores: Scores) -> dict[str, float]:
        """The coefficients; of layers tied as one function the first has it for all of them."""
        ties = ties_of(problem, scores.values["layers"])
        later = {name for names in ties for name in names[1:]}
        return {n: 0.0 if n in later else c for n, c in self.ratings(scores)["importance"].items()}
