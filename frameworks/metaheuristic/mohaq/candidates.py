"""MOHAQ's candidates: their objectives, their constraints and the beacons found on the way."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from frameworks.core.evaluation.train import Recipe
from frameworks.core.evolution.hypervolume import hypervolume
from frameworks.core.evolution.nsga2 import Genes, Member
from frameworks.core.policy import Policy
from frameworks.core.problem import Problem
from frameworks.core.search.learning import Learning
from frameworks.core.solution import Point, Solution
from frameworks.metaheuristic.mohaq.beacons import Beacon, Beacons, largest_error

if TYPE_CHECKING:
    from frameworks.metaheuristic.mohaq.framework import MOHAQ

SPEED_UP = "-speed-up"
VOLUME = "hypervolume of a generation's new candidates"  # that of the population never falls


class Candidates:
    """What candidates are worth: objectives, constraints, and the beacons found on the way."""

    def __init__(self, settings: MOHAQ, problem: Problem) -> None:
        self.settings, self.problem = settings, problem
        float_error = 100 - problem.float_score().accuracy
        self.limit = float_error + settings.error_rise
        self.region = float_error + settings.beacon_rise
        self.parts = problem.valid.parts(settings.subsets, problem.generator("subsets"))
        self.highest = problem.cost(problem.space.highest())
        images = settings.images or None
        retraining = Recipe(epochs=settings.epochs, lr=settings.lr, images=images, augment=True)
        self.beacons = Beacons(problem, retraining, settings.distance, settings.beacons)
        self.draws, self.volumes = 0, list[float]()
        self.nadir: tuple[float, ...] = ()
        self._results: dict[tuple[Policy, Beacon | None], tuple[float, float]] = {}

    @property
    def evaluated(self) -> set[Policy]:
        """The distinct policies that were run."""
        return {policy for policy, _ in self._results}

    @property
    def spent(self) -> bool:
        """Whether no other candidate may be run."""
        return 0 < self.settings.evaluations <= len(self.evaluated)

    def generation(self, genomes: Sequence[Genes]) -> list[Member]:
        """What the candidates of a generation are worth, as far as they may be run."""
        known = self.evaluated
        members = [self.member(genes) for genes in genomes if not self.spent]
        self.draws += len(members)
        new = self.evaluated - known
        fresh = [m for m in members if self.policy(m.genes) in new]
        self.nadir = self.nadir or tuple(map(max, zip(*(m.objectives for m in fresh), strict=True)))
        found = [m.objectives for m in fresh if not m.violation]
        if 2 * len(fresh) >= len(genomes):  # of a part of a generation it would be less
            self.volumes.append(hypervolume(found, self.nadir))
        return members

    def policy(self, genes: Genes) -> Policy:
        """The policy of genes: positions in each decision's list of bits."""
        choices = self.problem.space.choices
        return self.problem.space.decode(
            [choice.bits[gene] for choice, gene in zip(choices, genes, strict=True)]
        )

    def within(self, genes: Genes) -> bool:
        """Whether a candidate meets the budget."""
        return self.problem.within(self.policy(genes))

    def member(self, genes: Genes) -> Member:
        """Objectives and violated constraints of a candidate; over the budget, it is not run."""
        policy, budget, over = self.policy(genes), self.problem.budget, 0.0
        if self.within(genes):
            error = self.error(policy)
        else:
            error, over = 100.0, budget.load(self.problem.cost(policy)) / budget.limit - 1
        violation = max(error / self.limit - 1, 0.0) + over
        return Member(genes, tuple(self.objectives(policy, error).values()), violation)

    def objectives(self, policy: Policy, error: float) -> dict[str, float]:
        """Error, memory of the weights, and what else the target tells, to be minimised.

        Bytes and energies count as they are; of all other metrics (cycles, operations) the
        speed-up does, whose negative is minimised.
        """
        layers = self.problem.layers
        memory = sum(layer.stored * policy[layer.name].mean_weight / 8 for layer in layers)
        found = {"error": error, "size": memory}
        for metric, cost in self.problem.cost(policy).items():
            if self.problem.target.metrics[metric] == "bytes" or "energy" in metric:
                found[metric] = cost
            else:
                name = SPEED_UP if SPEED_UP not in found else f"{SPEED_UP} {metric}"
                found[name] = -self.highest[metric] / max(cost, 1e-30)
        return found

    def error(self, policy: Policy) -> float:
        """The least of the errors after plain quantization and with the nearest beacon."""
        plain = self._error(policy, None)
        speedup = -self.objectives(policy, plain).get(SPEED_UP, -math.inf)
        promising = plain <= self.region and speedup >= self.settings.beacon_speedup
        beacon = self.beacons.near(policy) if self.problem.retrains and promising else None
        return plain if beacon is None else min(plain, self._error(policy, beacon))

    def _error(self, policy: Policy, beacon: Beacon | None) -> float:
        key = policy, beacon
        if key not in self._results:
            evaluator = self.problem.evaluator() if beacon is None else beacon.evaluator
            counted = self.problem.meter.policies
            evaluator.settle(policy)
            if beacon is not None:  # with other weights it is the same policy, counted before
                self.problem.meter.policies = counted
            self._results[key] = largest_error(evaluator, self.parts, self.limit)
        return self._results[key][0]

    def best(self) -> tuple[Policy, float]:
        """The candidate of least error (of equal ones, of least loss), with minus its error."""
        policy, beacon = min(self._results, key=self._results.__getitem__)
        return policy, -self._results[policy, beacon][0]

    def solution(self, front: list[Policy]) -> Solution:
        """The front, and the point taken for the budget with the weights that its error is of."""
        (policy, source), (error, _) = min(self._results.items(), key=lambda item: item[1])
        errors = {p: min(e for (q, _), (e, _) in self._results.items() if q == p) for p in front}
        points = [Point(p, self.objectives(p, e)) for p, e in {**errors, policy: error}.items()]
        points.sort(key=lambda point: tuple(point.objectives.values()))
        counts = {"beacons": len(self.beacons.found), "draws": self.draws}
        learning = Learning(VOLUME, self.volumes).to_json()
        notes = {"error": error, "distinct": len(self.evaluated), **counts, "learning": learning}
        weights = None if source is None else source.weights
        return Solution(policy, weights=weights, front=tuple(points), notes=notes)
