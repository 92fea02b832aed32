"""The episodes of a search by roll-outs: as many as it takes to evaluate N distinct policies.

An agent that has settled repeats policies, and a repeated policy costs no evaluation. So that
searches compare by their evaluations, the clock is the number of distinct policies: schedules
(warm-up, noise) go by it, and an episode whose policy is known teaches the agent, as any other
does, but does not move the clock. The noise therefore stays until it has found something new. In a
space with fewer policies than that, or for an agent that has no noise left, the number of episodes
is bounded.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

from frameworks.core.evaluation.evaluate import Score
from frameworks.core.policy import Policy
from frameworks.core.problem import Problem
from frameworks.core.search.learning import Learning


class Trials:
    """What a search drew, what of it was new, and what it earned.

    Iterating gives, before each episode, the clock: how many distinct policies were evaluated so
    far. Each episode asks for one `score` and then tells its `reward`.

    Args:
        problem: is told the progress and the best policy so far.
        evaluations: distinct policies after which the search ends.
        draws: it ends after so many times as many episodes, too.
        measure: evaluates a policy that is not known yet.
    """

    def __init__(
        self,
        problem: Problem,
        evaluations: int,
        draws: float,
        measure: Callable[[Policy], Score],
    ) -> None:
        self.problem, self.evaluations, self.measure = problem, evaluations, measure
        self.most = math.ceil(draws * evaluations)
        self.known: dict[Policy, Score] = {}
        self.rewards: list[float] = []
        self._best: tuple[float, float, Policy] | None = None

    def __iter__(self) -> Iterator[int]:
        while len(self.known) < self.evaluations and len(self.rewards) < self.most:
            clock, episodes = len(self.known), len(self.rewards)
            self.problem.progress(clock, self.evaluations, "episodes")
            yield clock
            assert len(self.rewards) == episodes + 1, "an episode has one reward"

    def score(self, policy: Policy) -> Score:
        """The policy's score; evaluated once, as equal policies score alike."""
        if policy not in self.known:
            self.known[policy] = self.measure(policy)
        return self.known[policy]

    def reward(self, policy: Policy, reward: float) -> None:
        """The reward of the episode that drew this (scored) policy; equal ones go by the loss."""
        self.rewards.append(reward)
        rank = (reward, -self.known[policy].loss)
        if self._best is None or rank > self._best[:2]:
            self._best = (*rank, policy)
            self.problem.checkpoint(policy, reward)

    @property
    def best(self) -> Policy:
        """The policy of the greatest reward."""
        assert self._best is not None, "no episode was run"
        return self._best[2]

    def notes(self) -> dict[str, Any]:
        """Facts for the record: rewards by episode, counts, and whether the search learned."""
        return {
            "reward": max(self.rewards),
            "rewards": self.rewards,
            "distinct": len(self.known),
            "draws": len(self.rewards),
            "learning": Learning("reward", self.rewards).to_json(),
        }
