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

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from frameworks.core.agents.ddpg import DDPG, Actor
from frameworks.core.agents.replay import Array, Replay

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
    """

    states: Array
    actions: Array
    reached: float
    distance: float


class TwoLevels:
    """Two agents that learn together: goals are the first one's actions.

    The low level's reward weighs the distance from the goal and what the episode earned, and the
    weights change while it learns. So both are remembered, and all of its memory is rewarded anew
    before it learns: rewards of other weights would make a stretch of the search, and not what
    was done in it, look better or worse.

    Args:
        high: its actions are goals.
        low: follows them.
        goals: of the high level's memory.
        scale: factor on an episode's reward that the high level learns from.

    Attributes:
        earned: distance and episode's reward behind the slots of the low level's memory ``[n, 2]``.
    """

    def __init__(self, high: DDPG, low: DDPG, goals: GoalMemory, scale: float = 1.0) -> None:
        self.high, self.low, self.goals, self.scale = high, low, goals, scale
        self.earned = np.zeros((len(low.replay.reward), 2), np.float32)

    def remember(
        self, states: Array, actions: Array, reward: float, low: Mapping[int, LowSteps]
    ) -> None:
        """Put an episode into both memories.

        Args:
            states: of the high level, ``[T, S]``.
            actions: as they were carried out, ``[T, 1]``.
            reward: of the episode, that of every high-level step.
            low: by high-level step, if its action was a goal.
        """
        later = np.roll(states, -1, axis=0)
        slots = self.high.replay.extend(states, actions, self.scale * reward, later)
        for step, slot in enumerate(slots):
            self.goals.forget(slot)
            if step in low:
                did = low[step]
                # The state in which the next goal is set is the last one that holds this one.
                end = min((other for other in low if other > step), default=len(states) - 1)
                self.goals.store(slot, did, end - step)
                later = np.roll(did.states, -1, axis=0)
                kept = self.low.replay.extend(did.states, did.actions, 0.0, later)
                self.earned[kept] = did.distance, reward

    def pay(self, intrinsic: Callable[[Array, Array], Array]) -> None:
        """Reward the low level's memory by its distances and its episodes' rewards."""
        self.low.replay.reward[:, 0] = intrinsic(self.earned[:, 0], self.earned[:, 1])

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
