"""A Practical Mixed Precision Algorithm for Post-Training Quantization, arXiv 2302.05397.

Pandey et al. (Qualcomm AI Research), BMVC workshop 2023. Quantizers that a kernel of the hardware
ties form a group: weights and inputs of a layer, layers that read one tensor, and what else has to
have equal bits. A group takes one of the candidates that the hardware supports: pairs of weight
and activation bits, such as W8A16, W8A8 and W4A8.

Phase 1, sensitivity. Of each group g and candidate c below the highest, with all else in float, the
signal-to-quantization-noise ratio of the network's output F over a few images without labels,

    SQNR(g, c) = 10 log10( E[F(x)^2] / E[(F(x) - F_{g,c}(x))^2] )   in dB.

The pairs (g, c) make one list, in descending order of it.

Phase 2, the Pareto curve. All groups start at their highest candidate; along the list, group g is
flipped to c where that lowers the cost (relative BOPs, in the paper). The walk ends

- at a budget: with the first policy within it; or also
- at an accuracy: with the last policy that has it. As accuracy falls along the walk, it is found by
  binary or interpolation search, of a few evaluations.

There is no training and nothing to tune. AIMET, the authors' toolkit, has the same list and search
along it, but ends at an accuracy alone; the budget is the paper's. Weights have the ranges of the
protocol's quantizer, one an output channel.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor

from frameworks.core.card import Card
from frameworks.core.framework import ScoringFramework
from frameworks.core.policy import FLOAT, VALID_BITS, Pair, Policy
from frameworks.core.problem import Problem
from frameworks.core.registry import register
from frameworks.core.search.likeness import likeness
from frameworks.core.solution import Scores, Solution
from frameworks.core.solvers.limits import TOLERANCE, InfeasibleBudget
from frameworks.heuristic.practical_ptq.ends import SEARCHES, longest
from frameworks.heuristic.practical_ptq.groups import groups_of
from frameworks.heuristic.practical_ptq.steps import (
    CLEAN,
    Step,
    at,
    cheapest,
    curve,
    noisiest,
    prices_of,
)
from frameworks.heuristic.practical_ptq.walk import listed, walked


@register
@dataclass
class PracticalPTQ(ScoringFramework):
    """SQNR of the output by groups, and a walk along the sorted list to the budget.

    Attributes:
        images: calibration images, at most.
        candidates: pairs of weight and activation bits; empty for all that the protocol has and
            the hardware supports.
        per_image: the ratio is the mean of those of the images; else that of their mean powers.
        epsilon: is added to the noise's power; AIMET has 1e-4, which caps the ratios.
        drop: points of top-1 agreement with the float network that may be lost on the calibration
            images: the walk goes on, beyond the budget, as far as they allow; 0 ends it there.
        search_by: how that end is found: ``binary``, ``interpolation`` or ``every`` (one by one).
    """

    name: ClassVar[str] = "practical_ptq"
    card: ClassVar[Card] = Card(
        title="A Practical Mixed Precision Algorithm for Post-Training Quantization",
        arxiv="2302.05397",
        year=2023,
        venue="BMVC workshop",
        category="heuristic",
        quantizer="mse",
        quantization=("deterministic rounding",),
        granularity="layer",
        searches=("weight", "act"),
        needs=frozenset({"calibration", "separable_cost"}),
        hardware_aware=True,
        deviations=(
            "Inputs of layers are quantized, and nothing else, so that groups are the layers that "
            "read one tensor (and what the protocol ties); inputs of sums have no quantizers. "
            "Readers of one tensor that may take different bits stay apart.",
            "A flip that does not lower the cost is passed by. AIMET makes every one, even to more "
            "bits.",
            "Whether the paper takes the ratio of mean powers or the mean of the images' ratios is "
            "not known for certain; the former is the default (per_image).",
            "Candidates are all pairs of the protocol's bits that the hardware supports; the paper "
            "has a few, of 4, 8 and 16 bits. A group that may take none of those given has all of "
            "its own. Any cost that is a sum over layers is walked down; several limits by their "
            "mean, and if that meets not all, the last step is to each group's cheapest by one.",
            "BatchNorm is corrected in the sensitivities as in every evaluation here; the paper "
            "folds it.",
            "An accuracy (drop) is one of agreement with the float network, so that no labels are "
            "needed, and holds beyond the budget, which is met in any case. AIMET has no budget, "
            "and two early exits: if even the best uniform candidate loses more, it is kept (here "
            "the budget's policy is); if the cheapest one loses less, it is taken everywhere.",
            "The start is the highest candidate; AIMET takes the one that is best uniformly. Its "
            "third phase (fewer conversions between bits) is left out: it is no part of the paper.",
            "Of AIMET's options there is no walk upwards (phase2_reverse), no candidates beyond "
            "the hardware's (use_all_amp_candidates) or in float, no other metric in phase 1 and "
            "no ranges shared there by all groups (phase1_optimize). Its SQNR is over 128 samples "
            "with an epsilon of 1e-4 (here 256 images, pooled), and its Pareto points are measured "
            "(here they have the noise of their noisiest flip).",
        ),
    )

    images: int = 256
    candidates: list[list[int]] = field(default_factory=list)
    per_image: bool = False
    epsilon: float = 0.0
    drop: float = 0.0
    search_by: str = "binary"

    def validate(self) -> None:
        super().validate()
        for pair in self.candidates:
            if len(pair) != 2 or not VALID_BITS.issuperset(pair):
                raise ValueError(
                    f"candidates: {pair} is no pair of weight and activation bits, each one of "
                    f"{sorted(VALID_BITS)}"
                )
        for name in ("epsilon", "drop"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} = {getattr(self, name)}: must not be negative")
        if self.search_by not in SEARCHES:
            raise ValueError(f"search_by = {self.search_by!r}: choose from {list(SEARCHES)}")

    def skip(self, problem: Problem) -> str | None:
        reason = super().skip(problem)
        if reason is not None or not self.candidates:
            return reason
        layers = [[layer.name] for layer in problem.space.free_layers]
        policy = cheapest(problem, layers, [self.menu(problem, names) for names in layers])
        least, unit = problem.budget.load(problem.cost(policy)), problem.budget.unit
        if least <= problem.budget.limit * (1 + TOLERANCE):
            return None
        return f"its candidates cost {least:.6g} {unit} at least; more of them would go lower"

    # --- phase 1 -----------------------------------------------------------------------------

    def score(self, problem: Problem) -> Scores:
        evaluator = likeness(problem, self.images)
        counted = problem.meter.policies
        plain = Policy.uniform(problem.layers, FLOAT, FLOAT)

        def outputs(policy: Policy) -> Tensor:
            evaluator.apply(policy)
            return evaluator.outputs(evaluator.split)

        signal = outputs(plain)
        groups = groups_of(problem)
        menus = [self.menu(problem, names) for names in groups]
        found: list[dict[str, float]] = []
        for done, (names, menu) in enumerate(zip(groups, menus, strict=True)):
            problem.progress(done, len(groups), "groups quantized alone")
            found.append({})
            for weight, act in menu[1:]:
                output = outputs(at(plain, names, (weight, act)))
                found[-1][f"{weight} {act}"] = self.sqnr(signal, output)
        problem.meter.policies = counted  # a group alone is no policy of the space; images count
        return Scores({"groups": [list(names) for names in groups], "sqnr": found})

    def menu(self, problem: Problem, names: Sequence[str]) -> list[Pair]:
        """Those of ``candidates`` that a group may take (if none, all), the highest first."""
        entries = problem.layer_entries()
        common = [pair for pair in entries[names[0]] if all(pair in entries[n] for n in names)]
        few = [pair for pair in common if list(pair) in self.candidates]
        return sorted(few or common, key=lambda pair: (sum(pair), pair), reverse=True)

    def sqnr(self, signal: Tensor, output: Tensor) -> float:
        """The ratio of ``signal`` to its difference from ``output``, both ``[N, ...]``, in dB."""
        powers = [x.double().flatten(1).square().mean(1) for x in (signal, signal - output)]
        power, noise = powers if self.per_image else [x.mean(0, keepdim=True) for x in powers]
        most = 10 ** (CLEAN / 10)
        ratio = float((power / (noise + self.epsilon)).nan_to_num(0.0, most).clamp(max=most).mean())
        return max(-CLEAN, 10 * math.log10(ratio)) if ratio > 0 else -CLEAN

    # --- phase 2 -----------------------------------------------------------------------------

    def solve(self, problem: Problem, scores: Scores) -> Solution:
        steps = self.walk(problem, scores)
        end = next((k for k, (_, policy) in enumerate(steps) if problem.within(policy)), None)
        if end is None:
            least = problem.budget.load(problem.cost(steps[-1][1]))
            raise InfeasibleBudget(
                f"the walk ends at {least:.6g} {problem.budget.unit}, above the budget of "
                f"{problem.budget.limit:.6g}: give other candidates"
            )
        problem.checkpoint(steps[end][1])
        notes: dict[str, Any] = {"longest": len(steps) - 1}
        if self.drop > 0:
            end = self._further(problem, steps, end, notes)
            problem.checkpoint(steps[end][1])
        notes |= {"flips": end, "sqnr": steps[end][0]}
        return Solution(steps[end][1], front=curve(problem, steps, end), notes=notes)

    def walk(self, problem: Problem, scores: Scores) -> list[Step]:
        """The policies from the highest candidates to the lowest, each a flip cheaper.

        Cheaper by one price of all limits, which may leave one of several unmet; where no policy of
        the walk is within the budget, the last step is to one that is, if any is known.
        """
        groups: list[list[str]] = scores.values["groups"]
        menus = [self.menu(problem, names) for names in groups]
        prices = [prices_of(problem, *pair) for pair in zip(groups, menus, strict=True)]
        rated = [
            {pair: float(row[f"{pair[0]} {pair[1]}"]) for pair in menu[1:]}
            for menu, row in zip(menus, scores.values["sqnr"], strict=True)
        ]
        policy = problem.space.highest()
        for names, menu in zip(groups, menus, strict=True):
            policy = at(policy, names, menu[0])
        steps = [(CLEAN, policy)]
        for flip in walked(listed(rated, prices), prices):
            policy = at(policy, groups[flip.group], flip.pair)
            steps.append((flip.sqnr, policy))
        if problem.budget.others and not any(problem.within(policy) for _, policy in steps):
            policy = cheapest(problem, groups, menus)
            steps += [(noisiest(policy, groups, rated), policy)] if problem.within(policy) else []
        return steps

    def _further(
        self, problem: Problem, steps: Sequence[Step], start: int, notes: dict[str, Any]
    ) -> int:
        """The last position from ``start`` on that loses no more agreement than ``drop``."""
        evaluator = likeness(problem, self.images, soft=False)
        asked: dict[int, float] = {}

        def agreement(position: int) -> float:
            if position not in asked:
                asked[position] = evaluator(steps[start + position][1]).accuracy
            return asked[position]

        count = len(steps) - start
        found = longest(self.search_by, count, agreement, 100.0 - self.drop)
        notes["agreement"] = {str(start + k): value for k, value in asked.items()}
        return start + max(found, 0)
