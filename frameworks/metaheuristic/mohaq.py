"""MOHAQ: Multi-Objective Hardware-Aware Quantization (Rezk et al., 2021), arXiv 2108.01192.

A front of policies instead of one: NSGA-II with one gene for the weight bits and one for the
activation bits of every layer, all objectives minimised at once,

    f_1 = error,  f_2 = memory of the weights,  f_3 = -speed-up,  f_4 = energy,

as far as the platform can tell them, under the constraints (section on the search)

    g_1 = (error - error limit) / error limit <= 0,    g_2 = (cost - limit) / limit <= 0.

Inference-only search: a candidate's error is that of post-training quantization, the largest over
four subsets of the validation data, so that the search generalises; the later subsets are run only
if the first one keeps to the error limit.

Beacon-based search: retraining every candidate costs too much, but quantized neighbours profit
from the same weights. A candidate that may be worth it (feasible cost, error and speed-up in the
beacons' region) is also evaluated with the weights of the nearest beacon, a retrained solution, at

    distance(p, q) = sum over layers of |log2 b_p - log2 b_q|,   b the weight bits,

which counts 2, 4, 8, 16 as 1, 2, 3, 4. No beacon nearer than the threshold: the candidate itself is
retrained and becomes one. Its error is min(plain, with the beacon's weights).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from frameworks.core.beacons import Beacon, Beacons, largest_error
from frameworks.core.card import Card
from frameworks.core.framework import Framework
from frameworks.core.learning import Learning
from frameworks.core.policy import Policy
from frameworks.core.problem import Problem
from frameworks.core.qmodel import QModel
from frameworks.core.registry import register
from frameworks.core.solution import Point, Solution
from frameworks.core.solvers.hypervolume import hypervolume
from frameworks.core.solvers.nsga2 import NSGA2, Genes, Member
from frameworks.core.solvers.repair import draw_within
from frameworks.core.train import Recipe

SPEED_UP = "-speed-up"
VOLUME = "hypervolume of a generation's new candidates"  # that of the population never falls


@register
@dataclass
class MOHAQ(Framework):
    """NSGA-II over error and the target's metrics, with beacons where the protocol retrains.

    Attributes:
        population: members of a generation.
        offspring: candidates made per generation.
        generations: after the first one, which is random within the budget; it bounds the draws.
        evaluations: distinct policies after which the search ends, 0 for no such end. Candidates
            over the budget, and those that were evaluated before, do not count.
        eta: distribution index of crossover (always applied) and mutation.
        subsets: of the validation data; the error is the largest over them.
        error_rise: the error limit, in points above the float network's error.
        beacon_rise: up to this many points above it, retraining is worth a try.
        beacon_speedup: from this speed-up over the most bits on, it is needed.
        distance: threshold beyond which a beacon says nothing about a candidate.
        beacons: at most this many are retrained.
        epochs: of retraining a beacon.
        lr: its learning rate.
        images: training images of each of its epochs; 0 for all.
    """

    name: ClassVar[str] = "mohaq"
    card: ClassVar[Card] = Card(
        title="MOHAQ: Multi-Objective Hardware-Aware Quantization of Recurrent Neural Networks",
        arxiv="2108.01192",
        year=2021,
        venue="J. Systems Architecture 2022",
        category="metaheuristic",
        quantizer="mse",
        granularity="layer",
        searches=("weight", "act"),
        needs=frozenset({"calibration", "train", "valid"}),
        hardware_aware=True,
        deviations=(
            "The paper's network is a speech recogniser; here the error is top-1 of any network.",
            "The budget takes the place of the memory limit. The limits of 24 % (feasible) and "
            "30 % (worth a beacon) become 8 and 14 points above the float error (from memory).",
            "The speed-up is the ratio of total costs to those of the most bits; the released "
            "scripts average those of the layers over 16 bits, which overstates the gain. Their "
            "bound of 10 for beacons is 2.5 over 8 bits (BitFusion's products are 4 times faster).",
            "The first generation is random, but lowered at random until it is within the budget "
            "(of 10,000 uniform draws a tight one may leave none); the cheapest policy joins it.",
            "The released scripts run with beacons fixed by hand; here the search adds them by "
            "the paper's rule, and their number is bounded.",
            "Candidates over the budget are ranked by their violation; the paper runs them, too.",
            "The designer's choice from the front is the candidate of least error, of equal ones "
            "that of least loss (which cheaper ones of that error may have driven off the front). "
            "Activation ranges have least squared error, as those of the weights.",
        ),
    )

    population: int = 40
    offspring: int = 10
    generations: int = 60
    evaluations: int = 0
    eta: float = 3.0
    subsets: int = 4
    error_rise: float = 8.0
    beacon_rise: float = 14.0
    beacon_speedup: float = 2.5
    distance: float = 5.0
    beacons: int = 6
    epochs: float = 20
    lr: float = 0.01
    images: int = 0

    def search(self, problem: Problem) -> Solution:
        candidates = Candidates(self, problem)
        choices, rng = problem.space.choices, problem.rng("mohaq")
        least, most = [0] * len(choices), [len(c.bits) - 1 for c in choices]
        cheapest = problem.space.encode(problem.cheapest())
        start = [tuple(c.bits.index(b) for c, b in zip(choices, cheapest, strict=True))]
        start += draw_within(self.population - 1, least, most, candidates.within, rng)
        solver = NSGA2(
            least, most, rng, population=self.population, offspring=self.offspring,
            crossover=1.0, crossover_eta=self.eta, mutation_eta=self.eta, start=start,
        )  # fmt: skip
        for generation in range(self.generations + 1):
            if candidates.spent:
                break
            problem.progress(generation, self.generations + 1, "generations")
            solver.tell(candidates.generation(solver.ask()))
            problem.checkpoint(*candidates.best())
        return candidates.solution([candidates.policy(m.genes) for m in solver.front])

    def finish(self, problem: Problem, solution: Solution) -> QModel:
        """The network as the search saw it: the beacon's weights, quantized, not trained again."""
        return problem.fine_tune(solution.policy, Recipe(epochs=0), weights=solution.weights)


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
            error, over = 100.0, self.problem.cost(policy)[budget.metric] / budget.limit - 1
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
            evaluator.apply(policy)
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
