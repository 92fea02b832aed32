"""Proximal policy optimization (Schulman et al., arXiv 1707.06347), for discrete actions.

The agent of ReLeQ (arXiv 1811.01704; released code ``releq_lenet.py``, ``releq_cifar.py``):

- one LSTM reads the states of an episode in order; the policy, softmax over actions, and the value
  V(s) are two heads on its output; the temperature divides what the policy's last layer reads;
- deltas d_t = r_t + gamma V(s_t+1) - V(s_t), V = 0 after the last step; advantages
  A_t = sum_k (gamma lambda)^k d_t+k, and the value's targets A_t + V(s_t);
- surrogate (equation 7) mean min(rho A, clip(rho, 1 - eps, 1 + eps) A), with
  rho = pi(a|s) / pi_old(a|s);
- loss (equation 9): -surrogate + c1 mean (V - target)^2 - c2 mean entropy, descended by Adam
  ``passes`` times over the episodes of an update.

The first update only sets V to the mean return (`PPO._begin`), as there is nothing to compare with:
with V near 0, the first advantages would be what all actions earn alike. Where ``scaled``, A and
V - target are in units of the root mean square of all advantages so far, so that rewards of any
size stand in the same ratio to the entropy. An action that is not offered in a step has no
probability.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from frameworks.core.agents.replay import Array
from frameworks.core.randomness import seeded

RESOLUTION = 1e-2
"""Share of the first return that advantages are divided by at least, lest equal rewards blow up."""
Memory = tuple[Tensor, Tensor]
"""The recurrent state between two steps."""


@dataclass(frozen=True)
class Settings:
    """Hyper-parameters of the agent.

    Attributes:
        hidden: units of the LSTM and of the heads' layers (the value's second has half of them).
        clip: eps, how far the ratio of probabilities may pull.
        passes: over the episodes of an update.
        lr: Adam's learning rate.
        discount: gamma.
        trace: lambda of the advantages; 1 sums all deltas, 0 takes the step's own.
        value_weight: c1.
        entropy_weight: c2.
        temperature: of the softmax; below 1 it sharpens.
        scaled: whether advantages are divided by their root mean square.
    """

    hidden: int = 128
    clip: float = 0.1
    passes: int = 3
    lr: float = 1e-4
    discount: float = 0.999
    trace: float = 0.99
    value_weight: float = 1.0
    entropy_weight: float = 0.01
    temperature: float = 0.5
    scaled: bool = True


class RecurrentPolicy(nn.Module):
    """States ``[B, T, S]`` to log-probabilities ``[B, T, A]`` and values ``[B, T]``."""

    def __init__(self, states: int, actions: int, hidden: int, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature
        self.lstm = nn.LSTM(states, hidden, batch_first=True)
        self.policy = nn.Sequential(
            *(nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU())
        )
        self.logits = nn.Linear(hidden, actions)
        self.value = nn.Sequential(
            *(nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, hidden // 2), nn.ReLU()),
            nn.Linear(hidden // 2, 1),
        )

    def forward(
        self, state: Tensor, offered: Tensor, memory: Memory | None = None
    ) -> tuple[Tensor, Tensor, Memory]:
        """The two heads' outputs and the memory after the last step.

        Args:
            state: ``[B, T, S]``.
            offered: ``[B, T, A]``, whether an action may be taken.
            memory: of the steps before; None at the begin of an episode.
        """
        read, memory = self.lstm(state, memory)
        logits = self.logits(self.policy(read) / self.temperature)
        logs = logits.masked_fill(~offered, -math.inf).log_softmax(-1)
        return logs, self.value(read)[..., 0], memory


@dataclass
class Episode:
    """What an agent saw and did in one episode, step by step.

    Attributes:
        states: each ``[S]``.
        offered: each ``[A]``.
        actions: indices.
        logs: log-probabilities of the actions when they were taken.
        values: V of the states then.
        rewards: one a step.
        start: the memory before the first step; None for none.
        memory: after the last one.
    """

    states: list[Array] = field(default_factory=list)
    offered: list[npt.NDArray[np.bool_]] = field(default_factory=list)
    actions: list[int] = field(default_factory=list)
    logs: list[float] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    start: Memory | None = None
    memory: Memory | None = None

    def __post_init__(self) -> None:
        self.memory = self.start

    def after(self) -> Episode:
        """An episode that goes on where this one ends, as if with the same memory."""
        return Episode(start=self.memory)


def advantages(
    rewards: Sequence[float], values: Sequence[float], discount: float, trace: float
) -> list[float]:
    """Generalized advantages of the steps of an episode that ends after the last one."""
    found, later, after = [0.0] * len(rewards), 0.0, 0.0
    for t in reversed(range(len(rewards))):
        delta = rewards[t] + discount * after - values[t]
        later = found[t] = delta + discount * trace * later
        after = values[t]
    return found


def surrogate(ratio: Tensor, advantage: Tensor, clip: float) -> Tensor:
    """The clipped objective, the mean over steps; to be maximised."""
    held = ratio.clamp(1 - clip, 1 + clip)
    return torch.minimum(ratio * advantage, held * advantage).mean()


def entropy(logs: Tensor) -> Tensor:
    """Mean entropy in nats of distributions ``[..., A]`` given by log-probabilities."""
    # Actions that are not offered: 0 log 0 = 0, without the NaN of its gradient.
    terms = logs.exp() * logs.masked_fill(logs == -math.inf, 0.0)
    return -terms.sum(-1).mean()


class PPO:
    """The recurrent policy, its draws and its updates.

    Args:
        states: columns of a state.
        actions: how many there are.
        rng: draws the initial weights and the actions.
        settings: hyper-parameters.
    """

    def __init__(
        self,
        states: int,
        actions: int,
        rng: np.random.Generator,
        settings: Settings | None = None,
    ) -> None:
        self.settings = settings or Settings()
        self.rng = rng
        with seeded(int(rng.integers(2**62))):
            self.policy = RecurrentPolicy(
                states, actions, self.settings.hidden, self.settings.temperature
            )
        self.optimizer = torch.optim.Adam(
            self.policy.parameters(), lr=self.settings.lr, eps=1e-5, fused=True
        )
        self._least: float | None = None
        self._seen, self._squares = 0, 0.0

    def act(
        self,
        episode: Episode,
        state: Array,
        offered: npt.NDArray[np.bool_],
        *,
        greedy: bool = False,
    ) -> int:
        """Take the next step of an episode, which notes it; its reward is to follow.

        Args:
            episode: so far.
            state: ``[S]``.
            offered: ``[A]``, at least one.
            greedy: take the most probable action instead of a draw.
        """
        with torch.no_grad():  # the memory may be read by an update
            logs, value, episode.memory = self.policy(
                torch.from_numpy(state)[None, None],
                torch.from_numpy(offered)[None, None],
                episode.memory,
            )
        chances = logs[0, 0].double().exp().numpy()
        action = int(chances.argmax())
        if not greedy:
            action = int(self.rng.choice(len(chances), p=chances / chances.sum()))
        episode.states.append(state.copy())
        episode.offered.append(offered.copy())
        episode.actions.append(action)
        episode.logs.append(float(logs[0, 0, action]))
        episode.values.append(float(value[0, 0]))
        return action

    def gains(self, episode: Episode) -> list[float]:
        """The advantages of a finished episode's steps, in units of their rewards."""
        settings = self.settings
        return advantages(episode.rewards, episode.values, settings.discount, settings.trace)

    def loss(self, episode: Episode, gains: Sequence[float], scale: float) -> Tensor:
        """What an update descends, for one whole episode.

        Args:
            episode: finished.
            gains: its advantages.
            scale: what they are divided by.
        """
        settings, gain = self.settings, torch.tensor(gains)
        logs, values, _ = self.policy(
            torch.from_numpy(np.stack(episode.states))[None],
            torch.from_numpy(np.stack(episode.offered))[None],
            episode.start,
        )
        taken = logs[0].gather(1, torch.tensor(episode.actions)[:, None])[:, 0]
        ratio = (taken - torch.tensor(episode.logs)).exp()
        misses = (values[0] - (gain + torch.tensor(episode.values))) / scale
        loss: Tensor = (
            settings.value_weight * misses.square().mean()
            - surrogate(ratio, gain / scale, settings.clip)
            - settings.entropy_weight * entropy(logs)
        )
        return loss

    def update(self, episodes: Sequence[Episode]) -> None:
        """Descend the loss on finished episodes, their mean in each pass; at first, `_begin`."""
        if self._least is None:
            self._begin(episodes)
            return
        gains = [self.gains(episode) for episode in episodes]
        scale = self._scale(gains)
        for _ in range(self.settings.passes):
            self.optimizer.zero_grad(set_to_none=True)
            losses = [self.loss(e, g, scale) for e, g in zip(episodes, gains, strict=True)]
            torch.stack(losses).mean().backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()

    def _begin(self, episodes: Sequence[Episode]) -> None:
        """Raise V to the mean return of these episodes."""
        gamma = self.settings.discount
        returns = [advantages(e.rewards, [0.0] * len(e.rewards), gamma, 1.0) for e in episodes]
        mean = float(np.concatenate(returns).mean())
        self._least = RESOLUTION * abs(mean)
        shift = mean - float(np.concatenate([e.values for e in episodes]).mean())
        last = self.policy.value[-1]
        assert isinstance(last, nn.Linear)
        with torch.no_grad():
            last.bias.add_(shift)

    def _scale(self, gains: Sequence[Sequence[float]]) -> float:
        """The root mean square of all advantages so far, these included."""
        if not self.settings.scaled:
            return 1.0
        found = [gain for episode in gains for gain in episode]
        self._seen += len(found)
        self._squares += math.fsum(gain * gain for gain in found)
        return max(math.sqrt(self._squares / self._seen), self._least or 0.0) or 1.0
