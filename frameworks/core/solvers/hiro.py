"""Two-level reinforcement learning and its off-policy correction (HIRO, arXiv 1805.08296, 3.3).

A high-level transition is stored with the goal that a low-level controller then had. As that
controller learns, the same goal comes to mean something else. The stored goal is therefore replaced
by the one for which the recorded low-level actions are most likely now:

    g = argmax over candidates of -1/2 sum_j |a_j - mu_low(s_j, g)|^2.

Candidates: the goal that was set, the goal that was in fact reached, and eight normal draws around
the latter. Every correction starts from the goal that was set, not from an earlier correction, and
goes into the action of its transition and into the later states that hold the goal as the last one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from frameworks.core.solvers.ddpg import DDPG, Actor
from frameworks.core.solvers.replay import Array, Replay

DRAWS = 8
SPREAD = 0.25
"""Standard deviation of the draws, as a share of the goals' range (HIRO: half a half-range)."""


class GoalMemory:
    """The low-level records behind the slots of a high-level replay memory.

    Goals are actions of the high level, numbers in [0, 1].

    Args:
        capacity: slots of the replay memory.
        states: columns of a low-level state.
        column: which of them holds the goal.
        last: the column of a high-level state that holds the last goal set, if one does.
        steps: low-level steps kept per goal, evenly spaced among all of them.
    """

    def __init__(
        self, capacity: int, states: int, column: int, last: int | None = None, steps: int = 8
    ) -> None:
        self.column, self.last, self.steps = column, last, steps
        self.states = np.zeros((capacity, steps, states), np.float32)
        self.actions = np.zeros((capacity, steps), np.float32)
        self.stored = np.full(capacity, np.nan, np.float32)
        self.reached = np.full(capacity, np.nan, np.float32)
        self.span = np.zeros(capacity, np.int64)

    def store(self, slot: int, did: LowSteps, span: int = 0) -> None:
        """Record the low-level steps under a goal; ``span`` later states hold it as the last."""
        kept = np.linspace(0, len(did.states) - 1, self.steps).round().astype(np.int64)
        self.states[slot], self.actions[slot] = did.states[kept], did.actions[kept, 0]
        self.stored[slot], self.reached[slot] = did.states[0, self.column], did.reached
        self.span[slot] = span

    def forget(self, slot: int) -> None:
        """Mark a slot whose high-level action is not a goal."""
        self.stored[slot] = np.nan

    def correct(self, replay: Replay, low: Actor, count: int, rng: np.random.Generator) -> None:
        """Replace the goals of up to ``count`` random transitions in the replay memory."""
        known = np.flatnonzero(~np.isnan(self.stored))
        if not count or not len(known):
            return
        slots = rng.choice(known, min(count, len(known)), replace=False)
        draws = self.reached[slots, None] + SPREAD * rng.standard_normal((len(slots), DRAWS))
        goals = np.hstack([self.stored[slots, None], self.reached[slots, None], draws])
        goals = goals.clip(0, 1).astype(np.float32)
        states = np.repeat(self.states[slots, None], goals.shape[1], axis=1)
        states[..., self.column] = goals[..., None]
        with torch.inference_mode():
            flat = torch.from_numpy(states.reshape(-1, states.shape[-1]))
            actions: Array = low(flat)[:, 0].numpy().reshape(states.shape[:-1])
        best = ((self.actions[slots, None] - actions) ** 2).sum(-1).argmin(1)
        for slot, goal in zip(slots, goals[np.arange(len(slots)), best], strict=True):
            self._replace(replay, int(slot), float(goal))

    def _replace(self, replay: Replay, slot: int, goal: float) -> None:
        """Write a goal into the transition that set it and into the states that remember it."""
        replay.action[slot, 0] = goal
        if self.last is None:
            return
        # Newer slots are overwritten after older ones, so these are still of the same episode.
        later = (slot + np.arange(self.span[slot])) % len(replay.action)
        replay.next_state[later, self.last] = goal
        replay.state[(later + 1) % len(replay.action), self.last] = goal


@dataclass
class LowSteps:
    """What the low level did under one goal.

    Attributes:
        states: ``[n, S]``; they hold the goal as it was set.
        actions: ``[n, 1]``.
        reached: the goal that was in fact reached, as a high-level action.
        distance: how far the goal was missed, in the method's unit.
        reward: of every step; set when it is known.
    """

    states: Array
    actions: Array
    reached: float
    distance: float
    reward: float = 0.0


@dataclass
class TwoLevels:
    """Two agents that learn together: goals are the first one's actions."""

    high: DDPG
    low: DDPG
    goals: GoalMemory

    def remember(
        self, states: Array, actions: Array, reward: float, low: Mapping[int, LowSteps]
    ) -> None:
        """Put an episode into both memories.

        Args:
            states: of the high level, ``[T, S]``.
            actions: as they were carried out, ``[T, 1]``.
            reward: of every high-level step.
            low: by high-level step, if its action was a goal.
        """
        slots = self.high.replay.extend(states, actions, reward, np.roll(states, -1, axis=0))
        for step, slot in enumerate(slots):
            self.goals.forget(slot)
            if step in low:
                did = low[step]
                # The state in which the next goal is set is the last one that holds this one.
                end = min((later for later in low if later > step), default=len(states) - 1)
                self.goals.store(slot, did, end - step)
                later = np.roll(did.states, -1, axis=0)
                self.low.replay.extend(did.states, did.actions, did.reward, later)

    def learn(self, low: Mapping[int, LowSteps], correct: int, updates: int, steps: int) -> None:
        """Correct stored goals and update both agents after an episode.

        Args:
            low: the episode's low-level steps.
            correct: goals to correct.
            updates: updates of each agent, at most one for each of its steps.
            steps: high-level steps of the episode; 0 for the low level to learn alone.
        """
        if steps:
            self.goals.correct(self.high.replay, self.low.actor, correct, self.high.rng)
        kernels = sum(len(did.states) for did in low.values())
        for agent, most in ((self.high, steps), (self.low, kernels)):
            for _ in range(min(updates, most)):
                agent.update()
