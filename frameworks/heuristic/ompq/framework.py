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

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import ClassVar

import torch

from frameworks.core.budget import InfeasibleBudget
from frameworks.core.card import Card
from frameworks.core.evaluation.train import Recipe
from frameworks.core.framework import ScoringFramework
from frameworks.core.policy import VALID_BITS, Policy
from frameworks.core.problem import Problem
from frameworks.core.registry import register
from frameworks.core.search.likeness import likeness
from frameworks.core.solution import Scores, Solution
from frameworks.heuristic.ompq.features import functions, grams, readers
from frameworks.heuristic.ompq.orthogonality import importance, orm, overlap
from frameworks.heuristic.ompq.programme import SOLVERS, solved

Menu = dict[str, dict[int, tuple[int, Mapping[str, float]]]]
"""By layer and weight bits: the activation bits beside them, and the cost."""
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
            "of the released example. theta is divided by its largest value, or it vanishes.",
            "The released PTQ lists are no optima of the programme: its solver (SLSQP) takes so "
            "small a theta for zero and stops at the bits nearest to 4 everywhere, which follow "
            "from the layers' sizes alone (all seven come out so). solver=slsqp does the same; by "
            "default the programme is solved.",
            "A layer's feature is what the next layer reads, after pooling and normalisation if "
            "there are any. Layers of which one tensor is read have one feature and the same "
            "bits, as the released code has it for shortcuts. Images are not augmented.",
            "4 to 8 bits or 2 to 4 is decided by the budget, as in all released lists: the former "
            "where 4 bits everywhere fit. Other costs take the size's place; with several limits, "
            "or where no rounding fits, an integer programme chooses.",
            "What rounding leaves of the budget goes to the layers that gain most for their cost: "
            "the paper's networks have 16 layers and more, of which a rounded one leaves little.",
            "Activation bits were set by hand; here each width is tried, and the one whose "
            "answers have the least KL from the float network's on calibration images is taken.",
            "The first and the last layer are as the protocol has them (QAT: 8 bits; PTQ: free).",
            "An optimum leaves all layers but one at a bound, which costs much where few bits are "
            "left: single runs of ResNet-8 on Fashion-MNIST at tight bit operations fell behind "
            "random policies and behind solver=slsqp.",
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

    def score(self, problem: Problem) -> Scores:
        problem.progress(0, 1, "orthogonality of layers")
        model, images = problem.float_model(), problem.images[: self.images]
        free = [n for n, bits in problem.space.weight_bits.items() if len(bits) > 1]
        found = functions(readers(model, problem.space.names, images[:1]), free)
        # Gradients of one image's features; the meter sees those that begin at the output alone.
        problem.meter.images_backward += len(problem.layers)
        how = {"centred": self.centred, "batch_statistics": self.batch_statistics}
        matrices = grams(model, list(found), images, **how)
        return Scores({"layers": list(found.values()), "orm": orm(matrices).tolist()})

    def coefficients(self, scores: Scores) -> dict[str, float]:
        """Of the bits of each layer with free weight bits, in the programme's objective."""
        count = len(scores.values["layers"])
        metric = torch.tensor(scores.values["orm"], dtype=torch.double)
        gamma = overlap(metric.reshape(count, count))
        weights = importance(gamma, self.beta, relative=self.solver == "linear").tolist()
        groups = zip(scores.values["layers"], weights, strict=True)
        return {name: value for names, value in groups for name in names}

    def losses(self, problem: Problem, scores: Scores) -> dict[str, dict[tuple[int, int], float]]:
        """What the objective loses by bits below 8, once for the layers of one function."""
        weights = self._once(problem, scores)
        return {
            name: {(w, a): weights.get(name, 0.0) * (1 - w / 8) for w, a in pairs}
            for name, pairs in problem.layer_entries().items()
        }

    def solve(self, problem: Problem, scores: Scores) -> Solution:
        found: dict[Policy, int] = {}
        error: InfeasibleBudget | None = None
        for act in self._act_candidates(problem):
            try:
                found.setdefault(self._policy(problem, scores, act), act)
            except InfeasibleBudget as raised:
                error = error or raised
        if not found:
            assert error is not None, "activations have at least one width"
            raise error
        losses: dict[Policy, float] = {}
        if len(found) > 1:
            evaluate = likeness(problem, LIKENESS)
            losses = {policy: evaluate(policy).loss for policy in found}
        best = min(found, key=lambda policy: losses.get(policy, 0.0))
        problem.checkpoint(best)
        tried = {str(act): losses[policy] for policy, act in found.items() if policy in losses}
        return Solution(best, notes={"importance": self.coefficients(scores), "act_bits": tried})

    def _act_candidates(self, problem: Problem) -> list[int]:
        every = problem.space.act_bits.values()
        candidates = sorted({b for bits in every if len(bits) > 1 for b in bits})
        if problem.space.paired or not candidates:
            return [0]  # no choice: pairs decide, or every layer's are pinned
        return [nearest(candidates, self.act_bits)] if self.act_bits else candidates

    def _policy(self, problem: Problem, scores: Scores, act: int) -> Policy:
        """The programme's bits in the highest range that the budget leaves room for."""
        whole = menu_of(problem, act)
        ranges = [within(whole, low, high) for low, high in pairwise(self.bits)][::-1]
        for menu in ranges:
            try:
                return self._solved(problem, scores, menu)
            except InfeasibleBudget:
                continue
        return self._solved(problem, scores, whole)

    def _solved(self, problem: Problem, scores: Scores, menu: Menu) -> Policy:
        weights = self._once(problem, scores)
        table = {
            name: {w: (-weights.get(name, 0.0) * w / 8, costs) for w, (_, costs) in options.items()}
            for name, options in menu.items()
        }
        ties = [*problem.space.groups, *ties_of(problem, scores.values["layers"])]
        bits = solved(table, problem.budget, ties, self.solver)
        return Policy({name: (bits[name], menu[name][bits[name]][0]) for name in menu})

    def _once(self, problem: Problem, scores: Scores) -> dict[str, float]:
        """The coefficients; of layers tied as one function the first has it for all of them."""
        ties = ties_of(problem, scores.values["layers"])
        later = {name for names in ties for name in names[1:]}
        return {n: 0.0 if n in later else c for n, c in self.coefficients(scores).items()}


def ties_of(problem: Problem, functions: Sequence[Sequence[str]]) -> list[list[str]]:
    """The layers of each function in groups of those that may take the same bits."""
    entries = problem.layer_entries()
    found: dict[tuple[str, tuple[tuple[int, int], ...]], list[str]] = {}
    for names in functions:
        for name in names:
            found.setdefault((names[0], tuple(entries[name])), []).append(name)
    return list(found.values())


def menu_of(problem: Problem, act: int) -> Menu:
    """What each layer may take, with the activation bits nearest to ``act`` (paired: the same)."""
    acts, paired = problem.space.act_bits, problem.space.paired
    found: Menu = {}
    for name, entries in problem.layer_entries().items():
        beside = nearest(acts[name], act)
        found[name] = {w: (a, c) for (w, a), c in entries.items() if paired or a == beside}
        if not found[name]:
            raise InfeasibleBudget(f"{name}: the hardware runs no weights at {beside}-bit inputs")
    return found


def within(menu: Menu, low: int, high: int) -> Menu:
    """A menu from ``low`` to ``high`` weight bits; a layer with none there keeps all it has."""
    return {
        name: {w: option for w, option in options.items() if low <= w <= high} or options
        for name, options in menu.items()
    }


def nearest(candidates: Sequence[int], wish: int) -> int:
    """The candidate nearest to the wish, the lower of two."""
    return min(candidates, key=lambda bits: (abs(bits - wish), bits))
