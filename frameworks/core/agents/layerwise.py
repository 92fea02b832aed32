"""The walk of a DDPG agent over the layers, one action a decision: HAQ's, and its descendants'.

HAQ (arXiv 1811.08886; released code mit-han-lab/haq): in each step the agent sees the layer's facts
and the previous action, and gives an action in [0, 1] that stands for bits; the policy is lowered
until it is within the budget (`frameworks.core.search.wall`), measured, and its reward goes to all
of the episode's steps, with the raw actions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from frameworks.core.agents.ddpg import DDPG
from frameworks.core.agents.drl import ActorCriticSearch, layer_states
from frameworks.core.agents.replay import Array
from frameworks.core.policy import Policy
from frameworks.core.problem import Problem
from frameworks.core.search.trials import Trials
from frameworks.core.search.wall import action_wall
from frameworks.core.solution import Solution
from frameworks.core.space import Choice

REWARD_SCALE = 0.1
STATIC = (
    "depthwise",
    "in_channels",
    "out_channels",
    "stride",
    "kernel",
    "params",
    "in_size",
    "index",
)
PREVIOUS = len(STATIC)
"""Column of the previous action."""


def action_to_bits(action: float, candidates: Sequence[int]) -> int:
    """Bits of an action in [0, 1]: equal slices over min..max, then the nearest candidate.

    Ties between two candidates go to the lower one; half-way values round to even.
    """
    low, high = candidates[0], candidates[-1]
    bits = min(max(round((high - low + 1) * action + low - 0.5), low), high)
    return bits if bits in candidates else min(candidates, key=lambda c: (abs(c - bits), c))


@dataclass
class LayerwiseSearch(ActorCriticSearch):
    """A search by episodes of one DDPG agent over the decisions of a space.

    Attributes:
        episodes: distinct policies evaluated; those that repeat one do not count.
        warmup: the first of them, with uniform actions and without updates.
        noise: sigma of the exploration noise after the warm-up.
        noise_decay: factor on sigma for each of them.
        updates: updates of the agent per stored step.
    """

    flagged: ClassVar[bool] = True
    """Whether the state tells weight steps from activation steps."""

    episodes: int = 600
    warmup: int = 20
    noise: float = 0.5
    noise_decay: float = 0.99
    updates: int = 1

    def steps(self, problem: Problem) -> list[Choice]:
        """The decisions that the agent makes, in execution order, weights before activations."""
        return list(problem.space.choices)

    def states(self, problem: Problem) -> Array:
        """State of each step ``[steps, 10]`` (9 without the flag) before any action is known."""
        steps = self.steps(problem)
        static = layer_states(problem.layers, steps, STATIC)
        previous = np.ones((len(steps), 1), np.float32)
        flag = np.array([[step.kind != "act"] for step in steps], np.float32)
        return np.hstack([static, previous, flag] if self.flagged else [static, previous])

    def agent(self, problem: Problem) -> DDPG:
        """A fresh agent."""
        return DDPG(len(self.states(problem)[0]), problem.rng("haq"), self.settings())

    def action(self, agent: DDPG, state: Array, sigma: float | None) -> Array:
        """The action ``[1]`` in a state, with noise of ``sigma``; None in the warm-up."""
        return agent.random_action() if sigma is None else agent.act(state, sigma)

    def settled(self, accuracies: Sequence[float]) -> bool:
        """Whether a search has nothing more to find, by its episodes' since the warm-up."""
        return False

    def search(self, problem: Problem) -> Solution:
        agent = self.agent(problem)
        origin = problem.float_score().accuracy
        trials, accuracies = self.trials(problem, self.episodes), list[float]()
        for clock in trials:
            states, actions, policy = self.roll_out(problem, agent, clock)
            accuracy = trials.score(policy).accuracy
            reward = REWARD_SCALE * (accuracy - origin)
            trials.reward(policy, reward)
            agent.replay.extend(states, actions, reward, np.roll(states, -1, axis=0))
            if clock < self.warmup:
                continue
            for _ in range(self.updates * len(states)):
                agent.update()
            accuracies.append(accuracy)
            if self.settled(accuracies):
                break
        return self.solution(trials, agent)

    def solution(self, trials: Trials, agent: DDPG) -> Solution:
        """The policy of the greatest reward, with what is noted of the search."""
        return Solution(trials.best, notes=trials.notes())

    def roll_out(self, problem: Problem, agent: DDPG, clock: int) -> tuple[Array, Array, Policy]:
        """One pass over the layers: states ``[T, S]``, raw actions ``[T, 1]``, walled policy."""
        steps, states = self.steps(problem), self.states(problem)
        actions = np.zeros((len(steps), 1), np.float32)
        decayed = self.noise * self.noise_decay ** (clock - self.warmup)
        sigma = None if clock < self.warmup else decayed
        bits: dict[Choice, int] = {}
        for t, step in enumerate(steps):
            actions[t] = self.action(agent, states[t], sigma)
            bits[step] = action_to_bits(float(actions[t, 0]), step.bits)
            if t + 1 < len(steps):
                states[t + 1, PREVIOUS] = bits[step] / step.bits[-1]
        values = [bits.get(choice, choice.bits[-1]) for choice in problem.space.choices]
        return states, actions, self.fitted(problem, agent, problem.space.decode(values))

    def fitted(self, problem: Problem, agent: DDPG, wish: Policy) -> Policy:
        """The policy within the budget that is measured for what the agent wishes."""
        return action_wall(problem, wish, self.steps(problem))
