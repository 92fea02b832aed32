"""EvoQ: Mixed Precision Quantization of DNNs via Sensitivity Guided Evolutionary Search.

Yuan, Chen, Hu and Peng, IJCNN 2020 (record 9207413). No labels, no training data but 50 samples:

1. Fitness: how far the outputs of the quantized network are from those of the pretrained one on the
   samples (`frameworks.metaheuristic.evoq.differences`),

       D = 1/N sum_n ||z_n - v_n||_2^2 / ||v_n||_2^2.

2. Sensitivity: S_i is D with layer i alone quantized, at the bits of the uniform policy whose cost
   may not be exceeded.
3. Evolution from that uniform policy (raised where it leaves some of the budget) and mutants: of a
   few members drawn at random, the fittest is the parent (a tournament); its mutant joins, and the
   least fit member leaves (as in Real et al., "Large-Scale Evolution of Image Classifiers", arXiv
   1703.01041).
4. Mutation by sensitivity (`frameworks.metaheuristic.evoq.mutation`): a layer is raised with a
   chance proportional to S_i, and layers are lowered with chances proportional to 1 / S_i until
   the policy costs no more than it may.
5. Outputs and intermediate features of the best policy's network are calibrated with the same
   samples (`frameworks.metaheuristic.evoq.calibration`; ``protocol=paper``).

The abstract is all of the paper that could be read. It has the 50 samples, the output difference,
that sensitivities guide the mutation and that outputs and features are calibrated; formulas, sizes
and operators are what the authors would most likely have taken.

Its fitness is not accuracy: where every policy's score is known (ResNet-8 with equal bits, 100
evaluations, 20 seeds, bops like=3; `benchmarks.studies.landscape`) it ends 0.50 points of accuracy
behind the best, random search 0.11, but 0.002 nats of loss above the least, random search 0.018.
As long as published it ends 0.50 behind, too.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from frameworks.core.card import Card
from frameworks.core.framework import Framework
from frameworks.core.networks.qmodel import QModel
from frameworks.core.policy import Policy
from frameworks.core.problem import Problem
from frameworks.core.registry import register
from frameworks.core.search.trials import Trials
from frameworks.core.solution import Solution
from frameworks.metaheuristic.evoq.calibration import calibrate
from frameworks.metaheuristic.evoq.differences import Differences, uniform_within
from frameworks.metaheuristic.evoq.mutation import Mutation

DRAWS = 3.0
"""The search ends after so many times as many children as policies are to be evaluated."""
TRIES = 50
"""So many mutants are made for a child that is new, at most."""
Member = tuple[Policy, float]
"""A policy of the population and its output difference."""


@register
@dataclass
class EvoQ(Framework):
    """Evolution by output differences of 50 samples, mutations guided by sensitivities.

    Attributes:
        images: samples behind fitness, sensitivities and calibration; at most the protocol's.
        evaluations: distinct policies evaluated, the first population among them.
        population: members; the least fit leaves when a child comes.
        tournament: members drawn, of which the fittest is the parent.
        guided: whether sensitivities shape the mutation; if not, all layers have equal chances.
    """

    name: ClassVar[str] = "evoq"
    card: ClassVar[Card] = Card(
        title="EvoQ: Mixed Precision Quantization of DNNs via Sensitivity Guided Evolutionary "
        "Search",
        year=2020,
        venue="IJCNN",
        category="metaheuristic",
        quantizer="mse",
        quantization=("deterministic rounding",),
        granularity="layer",
        searches=("weight", "act"),
        needs=frozenset({"calibration"}),
        hardware_aware=False,
        deviations=(
            "A reconstruction: the paper's abstract is all that could be read. Known are 50 "
            "samples, the output difference as fitness, mutation by layer sensitivities, and the "
            "calibration at the end; the rest of this list is chosen.",
            "The difference is squared and relative to the float outputs, of the logits. A "
            "sensitivity is that of a layer's weights or of its inputs alone, as their bits are "
            "decided apart, at the uniform policy's bits.",
            "Evolution is by tournaments, without crossover: 50 members, 10 in a tournament, 550 "
            "policies. The least fit member leaves: the same samples give the same fitness, and "
            "where the oldest left, searches drifted off from the uniform policy. A child that was "
            "evaluated before is made again, so that each evaluation is of a new policy.",
            "A mutant is raised in one place and lowered in as many as the budget asks for, and no "
            "more; the paper's 'without adding computation' is read as a limit on the cost, here "
            "the budget. What lowers bits to lower the cost needs a target where that is so.",
            "The calibration is a scale and a shift of each output channel by least squares, kept "
            "where the output difference falls, with BatchNorm as stored (likely folded in the "
            "paper). It is part of `protocol=paper`; elsewhere BatchNorm's correction stands in.",
            "The paper's limit is the uniform network's cost. Where the budget is more, that "
            "policy is raised by the mutation's chances until nothing fits before it is mutated.",
            "Under `protocol=paper`, too, policies are ranked with BatchNorm corrected, and the "
            "best is then calibrated without. In an oracle's table, which has no outputs, fitness "
            "is the loss, that is, of labels.",
            "Ranges and BatchNorm's correction take all of the protocol's calibration images; "
            "with 50 of these they are the paper's samples. Its quantizer is not known: it is the "
            "suite's, of least squared error.",
        ),
    )
    trains: ClassVar[bool] = False
    lowers_bits: ClassVar[bool] = True

    images: int = 50
    evaluations: int = 550
    population: int = 50
    tournament: int = 10
    guided: bool = True

    def validate(self) -> None:
        super().validate()
        if not 1 <= self.tournament <= self.population:
            raise ValueError(
                f"tournament = {self.tournament}: give 1 to population = {self.population}"
            )

    def search(self, problem: Problem) -> Solution:
        differences = Differences(problem, problem.images[: self.images])
        start = uniform_within(problem, _every_bits(problem))
        count = len(problem.space.choices)
        sensitivities = differences.sensitivities(start) if self.guided else [1.0] * count
        rng = problem.rng(self.name)
        mutation = Mutation(problem, sensitivities, rng)
        starts = list(dict.fromkeys([start, mutation.filled(start)]))
        filled = starts[-1]
        members: list[Member] = []
        trials = Trials(problem, self.evaluations, DRAWS, differences)
        for _ in trials:
            # The uniform policy first, as it is and with what it leaves of the budget.
            known = trials.known
            child = starts.pop(0) if starts else self._child(mutation, filled, members, known, rng)
            found = trials.score(child).loss
            trials.reward(child, -found)
            members.append((child, found))
            if len(members) > self.population:
                members.remove(max(members, key=lambda member: member[1]))
        return Solution(
            trials.best,
            notes={"sensitivities": _told(problem, sensitivities), **trials.notes()},
        )

    def _child(
        self,
        mutation: Mutation,
        filled: Policy,
        members: Sequence[Member],
        known: Container[Policy],
        rng: np.random.Generator,
    ) -> Policy:
        """A mutant of the policy that fills up the budget until the population is full.

        Or of any member, where a small space has not that many.
        """
        full = len(members) >= self.population
        for tried in range(TRIES):
            chosen = full or tried >= TRIES // 2
            count = self.tournament if full else 1
            child = mutation(winner(members, count, rng) if chosen else filled)
            if child not in known:
                break
        return child

    def finish(self, problem: Problem, solution: Solution) -> QModel:
        """The network as published: calibrated with the samples, not trained."""
        made = problem.quantized(solution.policy)
        calibrate(made, problem.float_model(), problem.images[: self.images])
        return made


def winner(members: Sequence[Member], count: int, rng: np.random.Generator) -> Policy:
    """The fittest of so many members drawn at random; of equal ones that drawn first."""
    drawn = rng.choice(len(members), count, replace=False)
    return min((members[int(i)] for i in drawn), key=lambda member: member[1])[0]


def _every_bits(problem: Problem) -> list[int]:
    return sorted({bits for choice in problem.space.choices for bits in choice.bits})


def _told(problem: Problem, sensitivities: Sequence[float]) -> dict[str, float]:
    """The sensitivities by the layer and what of it is decided."""
    return {
        f"{choice.layers[0]} {choice.kind}": value
        for choice, value in zip(problem.space.choices, sensitivities, strict=True)
    }
