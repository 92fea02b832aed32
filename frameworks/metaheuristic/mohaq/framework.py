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

One budget is one point of its front: where every policy's score is known (ResNet-8 with equal bits,
100 evaluations, 20 seeds, bops like=3; `benchmarks.studies.landscape`) it ends 0.36 points of
accuracy behind the best, random policies that fill the budget 0.11, others 0.38; as long as
published (344 distinct policies) 0.11, these after 600 0.10 and 0.11.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from frameworks.core.card import Card
from frameworks.core.evaluation.train import Recipe
from frameworks.core.evolution.nsga2 import NSGA2
from frameworks.core.framework import Framework
from frameworks.core.networks.qmodel import QModel
from frameworks.core.problem import Problem
from frameworks.core.registry import register
from frameworks.core.solution import Solution
from frameworks.metaheuristic.mohaq.candidates import Candidates
from frameworks.metaheuristic.mohaq.repair import draw_within


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
        quantization=("deterministic rounding",),
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
        return problem.fine_tune(
            solution.policy, Recipe(epochs=0), weights=solution.weights, settled=True
        )
