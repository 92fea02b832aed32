"""ADRL: Simple Augmentation Goes a Long Way: ADRL for DNN Quantization.

Ning, Chen, Zhang and Shen, ICLR 2021 (OpenReview Qr0aRliE_Hb; no arXiv id, no released code). It
augments the DDPG agent of HAQ (arXiv 1811.08886): function approximation errors give the Q values
of early training a large variance, so that the actor proposes k actions in place of one, and a
refinement function takes the one that a cheap Q-value indicator prefers.

- States, actions, noise, action wall and reward are HAQ's (`frameworks.core.agents.layerwise`); the
  actor's last layer has k outputs, and each gets noise (`frameworks.reinforcement.adrl.agent`).
- Proposals become bits, duplicates are one; the refiner
  (`frameworks.reinforcement.adrl.indicators`) scores each by
      P-ADRL (profiling)   Qind(l, b) = accuracy with layer l alone at b bits, on a small sample,
      D-ADRL (distance)    Qind(l, b) = -||W_l - Q_b(W_l)|| / ||W_l||,
  and takes the fewest bits within ``tolerance`` of the best.
- Memoization: a pair (l, b) is scored once in a search, at most L |bits| passes in all.
- The executed action is stored; critic target and actor gradient go through the refiner, too.
- Early termination: the search ends once the accuracy of the last ``window`` episodes, all of them
  after the warm-up, has a standard deviation below ``spread``.

If an indicator ranks k uniform proposals perfectly, the best has a mean of k / (k + 1) and a
variance of k / ((k + 1)^2 (k + 2)), against 1/2 and 1/12 of a single one.

Where every policy's score is known (ResNet-8 with equal bits, 100 episodes, 20 seeds;
`benchmarks.studies.landscape`) it ends 0.11 and 0.39 points behind the best (bops like=3 and 3.5)
with 35 and 29 distinct policies; 100 and 73 random ones that fill the budget 0.11 and 0.30, 100
that do not 0.38 and 0.42. As long as published, 56 and 39 distinct policies end 0.10 and 0.36
behind, random ones 0.10 and 0.30, as the agent repeats what it knows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import numpy as np

from frameworks.core.agents.ddpg import DDPG
from frameworks.core.agents.layerwise import LayerwiseSearch
from frameworks.core.agents.replay import Array
from frameworks.core.card import Card
from frameworks.core.evaluation.train import Recipe
from frameworks.core.policy import Policy
from frameworks.core.problem import Problem
from frameworks.core.registry import register
from frameworks.core.search.trials import Trials
from frameworks.core.search.wall import refilled
from frameworks.core.solution import Solution
from frameworks.reinforcement.adrl.agent import Augmented, Refiner
from frameworks.reinforcement.adrl.indicators import INDICATORS, TOLERANCES

GRADIENTS = ("chosen", "all")


@register
@dataclass
class ADRL(LayerwiseSearch):
    """HAQ's agent with k proposals a layer, of which a memoised indicator chooses.

    Attributes:
        proposals: k.
        indicator: ``profiling`` (P-ADRL) or ``distance`` (D-ADRL).
        images: search-validation images of a profile.
        tolerance: how many percent points a proposal of fewer bits may score below the best; 0
            takes the best, None is the indicator's own: 0.5 of accuracy, 10 of distance.
        gradient: which proposals the actor's update pulls: ``chosen``, or ``all`` (mean Q).
        window: episodes whose accuracies decide on early termination, at least 2; 0 for none.
        spread: their standard deviation below which the search ends, in percent points.
        refill: whether what the wall leaves of the budget is given back.
    """

    name: ClassVar[str] = "adrl"
    card: ClassVar[Card] = Card(
        title="Simple Augmentation Goes a Long Way: ADRL for DNN Quantization",
        year=2021,
        category="reinforcement",
        quantizer="haq_linear",
        quantization=("deterministic rounding", "learned range"),
        granularity="layer",
        searches=("weight", "act"),
        needs=frozenset({"calibration", "train", "valid"}),
        venue="ICLR 2021",
        hardware_aware=True,
        deviations=(
            "the paper's body could not be read and no code is released: its parts (k proposals, "
            "two indicators, memoization, early termination) are known from its abstract and a "
            "summary, and every number and rule below is this project's",
            "a profile quantizes one decision and leaves the rest in float, so that what is "
            "memoised holds in every episode",
            "the refiner prefers fewer bits within a tolerance, of 0.5 points of accuracy or 10 of "
            "relative error: more bits are hardly ever worse, so that the best score alone would "
            "not compress",
            "k is 3; the actor's gradient goes through the chosen output alone (`gradient=all`: "
            "the mean Q of all k); proposals have noise of their own, in the warm-up they are "
            "uniform, and refined, too",
            "the paper searches weights (from memory); here activations are decisions like "
            "others, as in `haq`, whose wall asks the hardware",
            "profiles are not counted as evaluations, neither here nor in the paper: at most one "
            "pass over `images` for each decision and width. Their images are in the search's "
            "cost, their number is `profiles` in its notes. On sums over sixteen decisions (40 "
            "evaluations, 10 seeds, a perfect indicator) it regrets 0.24 points, without updates "
            "0.39, `random` 0.69 with as many evaluations more as there are profiles",
            "termination looks at 20 episodes and 0.1 points",
            "the paper's goal is a loss-free network, not a budget: the wall is HAQ's, and what it "
            "leaves of the budget is given back (`refill`), step by step to what lies furthest "
            "below the action or least above it, of equal ones to what gains most by the indicator",
            "early termination is for searches that stand alone: where methods are compared at "
            "equal evaluations, as in this project's suites, it is off (`window=0`)",
            "what is not said here of states, actions, reward, agent, counted episodes and "
            "fine-tuning is as for `haq`",
        ),
    )
    recipe: ClassVar[Recipe | None] = Recipe(
        epochs=30, batch=256, lr=0.01, weight_decay=4e-5, augment=True
    )

    proposals: int = 3
    indicator: str = "profiling"
    images: int = 256
    tolerance: float | None = None
    gradient: str = "chosen"
    window: int = 20
    spread: float = 0.1
    refill: bool = True

    def validate(self) -> None:
        super().validate()
        if self.proposals < 1:
            raise ValueError(f"proposals = {self.proposals}: must be at least 1")
        if self.indicator not in INDICATORS:
            raise ValueError(f"indicator = {self.indicator!r}: choose from {list(INDICATORS)}")
        if self.gradient not in GRADIENTS:
            raise ValueError(f"gradient = {self.gradient!r}: choose from {list(GRADIENTS)}")
        if self.tolerance is not None and not self.tolerance >= 0:
            raise ValueError(f"tolerance = {self.tolerance}: must not be negative")
        if self.window < 0 or self.window == 1:
            raise ValueError(f"window = {self.window}: must be 0, or at least 2")
        if not 0 <= self.spread < math.inf:
            raise ValueError(f"spread = {self.spread}: must not be negative")

    def agent(self, problem: Problem) -> Augmented:
        states = self.states(problem)
        indicator = partial(INDICATORS[self.indicator], problem, self.images)
        own = TOLERANCES[self.indicator]
        tolerance = own if self.tolerance is None else self.tolerance
        refiner = Refiner(states, self.steps(problem), indicator, tolerance)
        # The draws of `haq`, which this is with a single proposal.
        rng, every = problem.rng("haq"), self.gradient == "all"
        return Augmented(len(states[0]), rng, self.settings(), self.proposals, refiner, every)

    def action(self, agent: DDPG, state: Array, sigma: float | None) -> Array:
        assert isinstance(agent, Augmented)
        return agent.proposed(state, sigma)

    def fitted(self, problem: Problem, agent: DDPG, wish: Policy) -> Policy:
        assert isinstance(agent, Augmented)
        policy = super().fitted(problem, agent, wish)
        if not self.refill:
            return policy
        gain = agent.refiner.gain if self.proposals > 1 else None
        # One order for each wish, so that the same actions are the same policy.
        rng = problem.rng(f"refill {problem.space.encode(wish)}")
        return refilled(problem, policy, wish, rng, gain)

    def settled(self, accuracies: Sequence[float]) -> bool:
        if not self.window or len(accuracies) < self.window:
            return False
        return float(np.std(accuracies[-self.window :])) < self.spread

    def solution(self, trials: Trials, agent: DDPG) -> Solution:
        assert isinstance(agent, Augmented)
        found = super().solution(trials, agent)
        return replace(found, notes={**found.notes, "profiles": len(agent.refiner.known)})
