"""Deep deterministic policy gradient (Lillicrap et al., arXiv 1509.02971), for actions in [0, 1].

The agent of HAQ (arXiv 1811.08886; released code ``lib/rl/ddpg.py``) and of its descendants:

- actor mu(s) = sigmoid(W3 relu(W2 relu(W1 s))); critic Q(s, a) = V3 relu(V2 relu(V1s s + V1a a));
- critic target y = r - B + gamma * Q'(s', mu'(s')), without the last term after a final step;
- B, a moving mean of the sampled batches' rewards: B <- B + decay * (mean(r) - B), B_0 = mean(r);
- critic loss: mean squared error; actor loss: -mean Q(s, mu(s));
- target networks follow slowly: theta' <- (1 - tau) theta' + tau theta;
- exploration: a normal distribution around the actor's output, truncated to [0, 1].

An actor may have more outputs than an action has columns: proposals, of which a descendant of the
agent executes some (`DDPG.executed`); what is executed is what critic and memory see.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import ndtr, ndtri
from torch import Tensor, nn
from torch.nn import functional

from frameworks.core.agents.replay import Array, Batch, Replay
from frameworks.core.randomness import seeded


@dataclass(frozen=True)
class Settings:
    """Hyper-parameters of the agent.

    Attributes:
        hidden: units of the two hidden layers of actor and critic.
        actor_lr: Adam's learning rate for the actor.
        critic_lr: Adam's learning rate for the critic.
        tau: how fast the target networks follow.
        discount: gamma.
        baseline_decay: how fast the reward baseline follows the batch means; 0 switches it off.
        batch: transitions an update.
        replay: transitions kept, the oldest are overwritten.
    """

    hidden: tuple[int, int] = (400, 300)
    actor_lr: float = 1e-4
    critic_lr: float = 1e-3
    tau: float = 0.01
    discount: float = 1.0
    baseline_decay: float = 0.5
    batch: int = 64
    replay: int = 2000


class Actor(nn.Module):
    """mu(s): states ``[N, S]`` to actions ``[N, A]`` in [0, 1]."""

    def __init__(self, states: int, actions: int, hidden: tuple[int, int]) -> None:
        super().__init__()
        self.first = nn.Linear(states, hidden[0])
        self.second = nn.Linear(hidden[0], hidden[1])
        self.last = nn.Linear(hidden[1], actions)

    def forward(self, state: Tensor) -> Tensor:
        x = self.first(state).relu_()
        return torch.sigmoid(self.last(self.second(x).relu_()))


class Critic(nn.Module):
    """Q(s, a): states ``[N, S]`` and actions ``[N, A]`` to values ``[N, 1]``."""

    def __init__(self, states: int, actions: int, hidden: tuple[int, int]) -> None:
        super().__init__()
        self.state = nn.Linear(states, hidden[0])
        self.action = nn.Linear(actions, hidden[0])
        self.second = nn.Linear(hidden[0], hidden[1])
        self.last = nn.Linear(hidden[1], 1)

    def forward(self, state: Tensor, action: Tensor) -> Tensor:
        x = (self.state(state) + self.action(action)).relu_()
        out: Tensor = self.last(self.second(x).relu_())
        return out


def truncated_normal(mean: Array, sigma: float, quantile: npt.ArrayLike) -> Array:
    """Quantiles (in [0, 1]) of normal distributions around ``mean``, truncated to [0, 1]."""
    if sigma <= 0:
        return mean
    low, high = ndtr((0.0 - mean) / sigma), ndtr((1.0 - mean) / sigma)
    draw = mean + sigma * ndtri(low + (high - low) * np.asarray(quantile))
    clipped: Array = np.clip(draw, 0.0, 1.0).astype(np.float32)
    return clipped


class DDPG:
    """Actor, critic, their slow copies, the replay memory and the updates.

    Args:
        states: columns of a state.
        rng: draws the initial weights, the noise and the batches.
        settings: hyper-parameters.
        actions: columns of an action.
        outputs: of the actor, where they are more than those of an action.
    """

    def __init__(
        self,
        states: int,
        rng: np.random.Generator,
        settings: Settings | None = None,
        *,
        actions: int = 1,
        outputs: int | None = None,
    ) -> None:
        self.settings = settings or Settings()
        self.rng = rng
        self.replay = Replay(self.settings.replay, states, actions)
        self.baseline: float | None = None
        sizes = (states, actions, self.settings.hidden)
        given = (states, outputs or actions, self.settings.hidden)
        with seeded(int(rng.integers(2**62))):
            self.actor, self.critic = Actor(*given), Critic(*sizes)
            self.actor_target, self.critic_target = Actor(*given), Critic(*sizes)
        self.actor_target.load_state_dict(self.actor.state_dict())
        self.critic_target.load_state_dict(self.critic.state_dict())
        self._actor = _Half(self.actor, self.actor_target, self.settings.actor_lr)
        self._critic = _Half(self.critic, self.critic_target, self.settings.critic_lr)

    def executed(self, state: Tensor, outputs: Tensor) -> Tensor:
        """The actions ``[N, A]`` that an actor's outputs lead to in states ``[N, S]``: the same."""
        return outputs

    def worth(self, state: Tensor) -> Tensor:
        """What the actor's update ascends: the mean Q of what is executed in states ``[N, S]``."""
        action = self.executed(state, self.actor(state))
        mean: Tensor = self.critic(state, action).mean()
        return mean

    def act(self, state: Array, sigma: float = 0.0, quantile: npt.ArrayLike | None = None) -> Array:
        """The actor's action ``[A]`` for one state ``[S]``, with exploration noise.

        The noise is drawn, or that of a ``quantile`` in [0, 1] drawn by the caller.
        """
        with torch.inference_mode():
            mean: Array = self.actor(torch.from_numpy(state)[None])[0].numpy()
        if quantile is None and sigma > 0:
            quantile = self.rng.random(mean.shape)
        return mean if quantile is None else truncated_normal(mean, sigma, quantile)

    def random_action(self) -> Array:
        """A uniform action, for the warm-up."""
        return self.rng.random(self.replay.action.shape[1], np.float32)

    def target(self, batch: Batch) -> Tensor:
        """Critic target ``[N, 1]``; moves the reward baseline first."""
        mean = float(batch.reward.mean())
        if self.baseline is None:
            self.baseline = mean if self.settings.baseline_decay else 0.0
        else:
            self.baseline += self.settings.baseline_decay * (mean - self.baseline)
        with torch.no_grad():
            action = self.executed(batch.next_state, self.actor_target(batch.next_state))
            later = self.critic_target(batch.next_state, action)
            out: Tensor = (
                batch.reward - self.baseline + self.settings.discount * batch.alive * later
            )
        return out

    def update(self) -> float:
        """One step of critic and actor on a random batch; the critic's loss."""
        batch = self.replay.sample(self.settings.batch, self.rng)
        target = self.target(batch)
        loss = functional.mse_loss(self.critic(batch.state, batch.action), target)
        self._critic.descend(loss)
        self._actor.descend(-self.worth(batch.state))
        self._critic.follow(self.settings.tau)
        self._actor.follow(self.settings.tau)
        return float(loss.detach())


class _Half:
    """A network with its optimizer and its slow copy."""

    def __init__(self, network: nn.Module, slow: nn.Module, lr: float) -> None:
        self.parameters: Sequence[nn.Parameter] = list(network.parameters())
        self.slow: Any = [p.requires_grad_(False) for p in slow.parameters()]
        self.optimizer = torch.optim.Adam(self.parameters, lr=lr, fused=True)

    def descend(self, loss: Tensor) -> None:
        # Gradients of this network only: the actor's loss runs through the critic too.
        for parameter, gradient in zip(
            self.parameters, torch.autograd.grad(loss, self.parameters), strict=True
        ):
            parameter.grad = gradient
        self.optimizer.step()

    @torch.no_grad()
    def follow(self, tau: float) -> None:
        torch._foreach_lerp_(self.slow, list(self.parameters), tau)
