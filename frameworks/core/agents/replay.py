"""The replay memory of off-policy agents: a ring of transitions in preallocated arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Array = npt.NDArray[np.float32]


@dataclass
class Batch:
    """Sampled transitions; ``index`` are their slots in the replay memory."""

    index: npt.NDArray[np.int64]
    state: Tensor
    action: Tensor
    reward: Tensor
    next_state: Tensor
    alive: Tensor
    """1 where the episode went on, 0 after its last step."""


class Replay:
    """A ring of transitions in preallocated arrays."""

    def __init__(self, capacity: int, states: int, actions: int) -> None:
        self.state = np.zeros((capacity, states), np.float32)
        self.action = np.zeros((capacity, actions), np.float32)
        self.reward = np.zeros((capacity, 1), np.float32)
        self.next_state = np.zeros((capacity, states), np.float32)
        self.alive = np.zeros((capacity, 1), np.float32)
        self._added = 0

    def __len__(self) -> int:
        return min(self._added, len(self.state))

    def extend(
        self, state: Array, action: Array, reward: float | Array, next_state: Array
    ) -> npt.NDArray[np.int64]:
        """Add the steps of one episode in order; the last one is final.

        Args:
            state: ``[N, S]``.
            action: ``[N, A]``.
            reward: one number for all steps, or ``[N]``.
            next_state: ``[N, S]``; the last row is not used.

        Returns:
            The slots that the steps went to, ``[N]``.
        """
        count, capacity = len(state), len(self.state)
        slots = (self._added + np.arange(count)) % capacity
        keep = slice(max(0, count - capacity), None)
        at = slots[keep]
        self.state[at], self.action[at] = state[keep], action[keep]
        self.next_state[at] = next_state[keep]
        self.reward[at, 0] = np.broadcast_to(reward, (count,))[keep]
        self.alive[at, 0] = (np.arange(count) < count - 1)[keep]
        self._added += count
        return slots

    def sample(self, size: int, rng: np.random.Generator) -> Batch:
        """A random batch, without replacement where there are enough transitions."""
        index = rng.choice(len(self), size, replace=size > len(self), shuffle=False)
        columns = (self.state, self.action, self.reward, self.next_state, self.alive)
        return Batch(index, *(torch.from_numpy(column[index]) for column in columns))
