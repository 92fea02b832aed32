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
- Early termination: the search ends once, after the warm-up, the accuracy of the last ``window``
  episodes has a standard deviation below ``spread``.

If an indicator ranks k uniform proposals perfectly, the best has a mean of k / (k + 1) and a
variance of k / ((k + 1)^2 (k + 2)), against 1/2 and 1/12 of a single one.
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
from frameworks.core.space import Choice
from frameworks.reinforcement.adrl.agent import Augmented, Refiner
from frameworks.reinforcement.adrl.indicators import INDICATORS


@register
@dataclass
class ADRL(LayerwiseSearch):
    """HAQ's agent with k proposals a layer, of which a memoised indicator chooses.

    Attributes:
        proposals: k.
        indicator: ``profiling`` (P-ADRL) or ``distance`` (D-ADRL).
        images: search-validation images of a profile.
        tolerance: how many percent points a proposal of fewer bits may score below the best; 0
            takes the best.
        window: episodes whose accuracies decide on early termination; 0 for none.
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
        deviations=(
            "the paper's body could not be read and no code is released: its parts (k proposals, "
            "two indicators, memoization, early termination) are known from its abstract and a "
            "summary, and every number and rule below is this project's",
            "a profile quantizes one decision and leaves the rest in float, so that what is "
            "memoised holds in every episode",
            "the refiner prefers fewer bits within a tolerance of 0.5 points: more bits are hardly "
            "ever less accurate, so that the best score alone would not compress",
            "k is 3; the actor's gradient goes through the chosen output alone; proposals have "
            "noise of their own, in the warm-up they are uniform, and refined, too",
            "termination looks at 20 episodes and 0.1 points",
            "the paper's goal is a loss-free network, not a budget: the wall is HAQ's, and what it "
            "leaves of the budget is given back (`refill`); without that, it stays behind the "
            "baseline `random`, which does so, too",
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
    tolerance: float = 0.5
    window: int = 20
    spread: float = 0.1
    refill: bool = True

    def validate(self) -> None:
        super().validate()
        if self.proposals < 1:
            raise ValueError(f"proposals = {self.proposals}: must be at least 1")
        if self.indicator not in INDICATORS:
            raise ValueError(f"indicator = {self.indicator!r}: choose from {list(INDICATORS)}")
        if not 0 <= self.spread < math.inf:
            raise ValueError(f"spread = {self.spread}: must not be negative")

    def agent(self, problem: Problem) -> Augmented:
        states = self.states(problem)
        indicator = partial(INDICATORS[self.indicator], problem, self.images)
        refiner = Refiner(states, self.steps(problem), indicator, self.tolerance)
        # The draws of `haq`, which this is with a single proposal.
        rng = problem.rng("haq")
        return Augmented(len(states[0]), rng, self.settings(), self.proposals, refiner)

    def action(self, agent: DDPG, state: Array, sigma: float | None) -> Array:
        assert isinstance(agent, Augmented)
        return agent.proposed(state, sigma)

    def fitted(self, problem: Problem, wish: Policy, steps: Sequence[Choice]) -> Policy:
        policy = super().fitted(problem, wish, steps)
        return refilled(problem, policy, wish) if self.refill else policy

    def settled(self, clock: int, accuracies: Sequence[float]) -> bool:
        if not self.window or clock < self.warmup or len(accuracies) < self.window:
            return False
        return float(np.std(accuracies[-self.window :])) < self.spread

    def solution(self, trials: Trials, agent: DDPG) -> Solution:
        assert isinstance(agent, Augmented)
        found = super().solution(trials, agent)
        return replace(found, notes={**found.notes, "profiles": len(agent.refiner.known)})
