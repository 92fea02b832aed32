"""What today's toolkits do: layers quantized one at a time, and an exact integer programme.

No paper has it as a whole: Sony's Model Compression Toolkit, Nvidia's Model Optimizer and
Qualcomm's AIMET (Pandey et al., "A Practical Mixed Precision Algorithm for Post-Training
Quantization", arXiv 2302.05397) share this scheme. For layer i with weights of w and inputs of a
bits, all else float,

    Omega_i(w, a) = mean over images of KL(softmax(f(x)) || softmax(f_{i, w, a}(x))),

with BatchNorm corrected as in every evaluation, and the bits solve

    minimise  sum_i Omega_i(w_i, a_i)   subject to   the budget.

Weights and inputs of a layer are quantized as a pair, as their errors do not add up within it. It
needs no labels and no gradients: a few images, and one pass for each layer and pair, which goes on
from the layer that differs.

With ``refine``, so many further policies are evaluated: one to three decisions of the present one
move by a step of their bits, drawn at random; what is within the budget and lowers the loss on the
search-validation images stays.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from frameworks.core.card import Card
from frameworks.core.framework import ScoringFramework
from frameworks.core.policy import Pair, Policy
from frameworks.core.problem import Problem
from frameworks.core.registry import register
from frameworks.core.search.alone import divergences, runs
from frameworks.core.search.sensitivities import exact
from frameworks.core.solution import Scores, Solution
from frameworks.core.space import Space

MOST_MOVED = 3
DRAWS = 50
"""So many draws are made for each policy that is new and within the budget, at most."""
DEVIATIONS = (
    "no paper has this method as a whole: it is what three toolkits share (MCT, Model Optimizer, "
    "AIMET); the arXiv number is that of AIMET's algorithm, which walks down a list by accuracy "
    "and is `practical_ptq` here",
    "the divergence of the outputs stands for all three: MCT's default is the distance of "
    "activations of all layers, Model Optimizer's a gradient, AIMET's the SQNR of the outputs",
    "Model Optimizer and AIMET choose greedily or by programmes of their own; here it is exact",
)


@register
@dataclass
class LayerKL(ScoringFramework):
    """KL of the answers with one layer quantized, and an exact integer programme.

    Attributes:
        images: calibration images that the answers are of, at most.
    """

    name: ClassVar[str] = "layer_kl"
    card: ClassVar[Card] = Card(
        title="Layer-wise KL divergence and integer programming, as toolkits do",
        year=2023,
        category="heuristic",
        quantizer="mse",
        granularity="layer",
        searches=("weight", "act"),
        quantization=("deterministic rounding",),
        needs=frozenset({"calibration", "separable_cost"}),
        arxiv="2302.05397",
        hardware_aware=True,
        deviations=DEVIATIONS,
    )

    images: int = 256

    def score(self, problem: Problem) -> Scores:
        return Scores({"losses": divergences(problem, self.images)})

    def losses(self, problem: Problem, scores: Scores) -> dict[str, dict[Pair, float]]:
        known: Mapping[str, Mapping[str, float]] = scores.values["losses"]
        return {
            name: {(w, a): float(known.get(name, {}).get(f"{w} {a}", 0.0)) for w, a in pairs}
            for name, pairs in problem.layer_entries().items()
        }

    def solve(self, problem: Problem, scores: Scores) -> Solution:
        table = self.losses(problem, scores)
        policy = exact(problem, table)
        problem.checkpoint(policy)
        predicted = math.fsum(table[n][b.weight, b.act] for n, b in policy.items())  # type: ignore[index]
        return Solution(policy, notes={"loss": predicted})


@register
@dataclass
class LayerKLRefined(LayerKL):
    """Layer-wise KL and an exact programme, then local moves by measured loss.

    Attributes:
        refine: distinct policies, the start included, that are evaluated.
    """

    name: ClassVar[str] = "layer_kl_refined"
    card: ClassVar[Card] = replace(
        LayerKL.card,
        title="Layer-wise KL divergence, integer programming and local moves",
        needs=LayerKL.card.needs | {"valid"},
        deviations=(*DEVIATIONS, "the local moves are this project's"),
    )
    evaluates: ClassVar[tuple[str, ...]] = ("refine",)

    refine: int = 200

    def solve(self, problem: Problem, scores: Scores) -> Solution:
        start = super().solve(problem, scores)
        policy, notes = start.policy, dict(start.notes)
        best = problem.evaluate(policy).loss
        problem.checkpoint(policy, -best)
        curve, seen = [best], {policy}
        rng = problem.rng("refine")
        while problem.space.choices and len(seen) < self.refine:
            problem.progress(len(seen), self.refine, "local moves")
            moved = self._new(problem, policy, seen, rng)
            if moved is None:
                break
            seen.add(moved)
            if (loss := problem.evaluate(moved).loss) < best:
                policy, best = moved, loss
                problem.checkpoint(policy, -best)
            curve.append(best)
        return Solution(policy, notes={**notes, "losses": curve, "distinct": len(seen)})

    @staticmethod
    def _new(
        problem: Problem, policy: Policy, seen: set[Policy], rng: np.random.Generator
    ) -> Policy | None:
        """A neighbour within the budget that is not known; None if draws find none."""
        for _ in range(DRAWS):
            moved = neighbour(problem.space, policy, rng)
            if moved not in seen and runs(problem, moved) and problem.within(moved):
                return moved
        return None


def neighbour(space: Space, policy: Policy, rng: np.random.Generator) -> Policy:
    """A policy of which one to three decisions are a step up or down."""
    values: list[Any] = list(space.encode(policy))
    count = int(rng.integers(1, min(MOST_MOVED, len(values)) + 1))
    for i in rng.choice(len(values), count, replace=False):
        bits = space.choices[i].bits
        place = bits.index(values[i]) + int(rng.choice((-1, 1)))
        values[i] = bits[min(max(place, 0), len(bits) - 1)]
    return space.decode(values)
