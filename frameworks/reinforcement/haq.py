"""HAQ: Hardware-Aware Automated Quantization with Mixed Precision (Wang et al., CVPR 2019).

arXiv 1811.08886; released code mit-han-lab/haq (commit 8228d12). A DDPG agent
(`frameworks.core.solvers.ddpg`) walks through the layers, two steps each: weight bits, then
activation bits.

- State (section 3.2), ten columns, each min-max scaled over the layers:
  depthwise flag, c_in, c_out, stride, kernel, number of weights, input feature size, layer index,
  previous action (its bits over the largest), and a flag that is 1 in a weight step. Fully
  connected layers have kernel 1, stride 0. The size variant has no weight/activation flag.
- Action a in [0, 1] to bits: b = round((b_max - b_min + 1) * a + b_min - 1/2).
- Action wall (section 3.4): while the target's cost is over the budget, go from the last layer to
  the first and lower the activation bits by one step, then the weight bits by one step, testing
  after each; pass after pass until the budget is met or all is at its fewest bits.
- Reward R = 0.1 * (acc_quant - acc_origin) in percent points, on the same images, given to every
  transition of the episode; the stored action is the raw one, from before the wall.
- Each policy is fine-tuned for one epoch before it is measured (where the protocol trains).
- 600 episodes, the first 20 with uniform actions; afterwards exploration noise of
  sigma = noise * noise_decay^(episode - warmup), and one update of the agent a stored step.

Fewer episodes: keep the noise at the end equal by noise_decay = 0.99^(580 / (episodes - warmup))
with warmup about a sixth of the episodes (60 episodes: warmup 10, noise_decay 0.89), and raise
``updates`` to 2 to 4, as there are fewer steps to learn from.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from frameworks.core.card import Card
from frameworks.core.evaluate import Score
from frameworks.core.framework import Framework
from frameworks.core.layers import Layer
from frameworks.core.policy import Policy
from frameworks.core.problem import Problem
from frameworks.core.registry import register
from frameworks.core.solution import Solution
from frameworks.core.solvers.ddpg import DDPG, Array, Settings
from frameworks.core.space import Choice
from frameworks.core.train import Recipe

REWARD_SCALE = 0.1
SHARED_DEVIATIONS = (
    "pinned layers take no step; the released code acts on them and overwrites the action "
    "(their features still count when the state is scaled)",
    "the flag column is 1 in weight steps, as documented; the released code's in-place state "
    "update inverts it from the second step on",
    "episode and origin accuracy are measured on the search-validation split, as in the paper; "
    "the released linear code uses the training accuracy of the fine-tuning epoch",
    "hidden units 400 and 300 and a replay memory of 2000 follow the paper; the released code has "
    "300 and 300, and 128 transitions a layer",
    "the wall's order (last layer first, activations before weights) is the released code's; the "
    "paper only says that bits are lowered layer by layer",
    "bits without a candidate go to the nearest one; tied layers are one step, with the first "
    "layer's features",
    "policies of equal reward are ranked by their loss",
)


def action_to_bits(action: float, candidates: Sequence[int]) -> int:
    """Bits of an action in [0, 1]: equal slices over min..max, then the nearest candidate.

    Ties between two candidates go to the lower one; half-way values round to even.
    """
    low, high = candidates[0], candidates[-1]
    bits = min(max(round((high - low + 1) * action + low - 0.5), low), high)
    return min(candidates, key=lambda c: (abs(c - bits), c))


def static_state(layers: Sequence[Layer]) -> Array:
    """The eight columns that do not depend on actions, min-max scaled over the layers ``[L, 8]``.

    A column that is the same for all layers is 0.
    """
    rows = [
        (
            float(layer.depthwise),
            layer.in_channels,
            layer.out_channels,
            layer.stride[0] if layer.kind == "conv" else 0,
            layer.kernel[0],
            layer.params,
            math.prod(layer.in_size),
            layer.index,
        )
        for layer in layers
    ]
    table = np.array(rows, np.float64)
    low, span = table.min(0), np.ptp(table, axis=0)
    scaled: Array = ((table - low) / np.where(span > 0, span, 1)).astype(np.float32)
    return scaled


@register
@dataclass
class HAQ(Framework):
    """The linear-quantization agent: weight and activation bits of every layer.

    Attributes:
        episodes: policies rolled out and evaluated.
        warmup: first episodes, with uniform actions and without updates.
        noise: sigma of the exploration noise after the warm-up.
        noise_decay: factor on sigma per episode.
        updates: updates of the agent per stored step.
        hidden1: units of the first hidden layer of actor and critic.
        hidden2: units of the second.
        actor_lr: learning rate of the actor.
        critic_lr: learning rate of the critic.
        tau: speed of the target networks.
        discount: discount of later rewards.
        batch: transitions an update.
        replay: transitions remembered.
        baseline_decay: speed of the moving reward baseline.
        retrain_epochs: epochs of fine-tuning before a policy is measured; 0 for none.
        retrain_images: training images an epoch.
        retrain_lr: their learning rate.
    """

    name: ClassVar[str] = "haq"
    card: ClassVar[Card] = Card(
        title="HAQ: Hardware-Aware Automated Quantization with Mixed Precision",
        year=2019,
        category="reinforcement",
        quantizer="haq_linear",
        granularity="layer",
        searches=("weight", "act"),
        needs=frozenset({"calibration", "train", "valid"}),
        arxiv="1811.08886",
        venue="CVPR 2019",
        hardware_aware=True,
        deviations=SHARED_DEVIATIONS,
    )
    recipe: ClassVar[Recipe | None] = Recipe(
        epochs=30, batch=256, lr=0.01, weight_decay=4e-5, augment=True
    )
    flagged: ClassVar[bool] = True
    """Whether the state tells weight steps from activation steps."""
    retrain_batch: ClassVar[int] = 128

    episodes: int = 600
    warmup: int = 20
    noise: float = 0.5
    noise_decay: float = 0.99
    updates: int = 1
    hidden1: int = 400
    hidden2: int = 300
    actor_lr: float = 1e-4
    critic_lr: float = 1e-3
    tau: float = 0.01
    discount: float = 1.0
    batch: int = 64
    replay: int = 2000
    baseline_decay: float = 0.5
    retrain_epochs: float = 1
    retrain_images: int = 20000
    retrain_lr: float = 1e-3

    def skip(self, problem: Problem) -> str | None:
        if not self.steps(problem):
            return f"{self.name} finds nothing to search: the space pins all of its decisions"
        return super().skip(problem)

    def steps(self, problem: Problem) -> list[int]:
        """Indices of the space's choices that the agent decides, in the order of its steps."""
        return list(range(len(problem.space.choices)))

    def states(self, problem: Problem) -> Array:
        """State of each step ``[steps, 10]`` (9 without the flag) before any action is known."""
        features = static_state(problem.layers)
        index = {layer.name: layer.index for layer in problem.layers}
        choices = [problem.space.choices[i] for i in self.steps(problem)]
        static = features[[index[choice.layers[0]] for choice in choices]]
        previous = np.ones((len(choices), 1), np.float32)
        flag = np.array([[choice.kind != "act"] for choice in choices], np.float32)
        return np.hstack([static, previous, flag] if self.flagged else [static, previous])

    def wall(self, problem: Problem, values: Sequence[int]) -> list[int]:
        """Bits of the space's choices, lowered as the module says until the budget is met."""
        values, choices = list(values), problem.space.choices
        order = self.steps(problem)[::-1]
        over = not problem.within(problem.space.decode(values))
        while over and any(values[i] > choices[i].bits[0] for i in order):
            for i in order:
                if values[i] > choices[i].bits[0]:
                    values[i] = choices[i].bits[choices[i].bits.index(values[i]) - 1]
                    over = not problem.within(problem.space.decode(values))
                if not over:
                    break
        return values

    def search(self, problem: Problem) -> Solution:
        agent = DDPG(len(self.states(problem)[0]), problem.rng("haq"), self._settings())
        origin = problem.float_score().accuracy
        best: tuple[float, float, Policy] | None = None
        rewards: list[float] = []
        for episode in range(self.episodes):
            problem.progress(episode, self.episodes, "episodes")
            states, actions, values = self.roll_out(problem, agent, episode)
            policy = problem.space.decode(self.wall(problem, values))
            score = self.measure(problem, policy)
            rewards.append(REWARD_SCALE * (score.accuracy - origin))
            if best is None or (rewards[-1], -score.loss) > best[:2]:
                best = (rewards[-1], -score.loss, policy)
                problem.checkpoint(policy, rewards[-1])
            agent.replay.extend(states, actions, rewards[-1], np.roll(states, -1, axis=0))
            if episode >= self.warmup:
                for _ in range(self.updates * len(states)):
                    agent.update()
        assert best is not None
        return Solution(best[2], notes={"reward": best[0], "rewards": rewards})

    def roll_out(
        self, problem: Problem, agent: DDPG, episode: int
    ) -> tuple[Array, Array, list[int]]:
        """One pass over the layers: states ``[T, S]``, raw actions ``[T, 1]``, bits of all choices."""
        choices: Sequence[Choice] = problem.space.choices
        values = [choice.bits[-1] for choice in choices]
        states = self.states(problem)
        previous = 8 if states.shape[1] > 8 else None
        assert previous is not None
        actions = np.zeros((len(states), 1), np.float32)
        sigma = self.noise * self.noise_decay ** (episode - self.warmup)
        for step, i in enumerate(self.steps(problem)):
            if episode < self.warmup:
                actions[step] = agent.random_action()
            else:
                actions[step] = agent.act(states[step], sigma)
            values[i] = action_to_bits(float(actions[step, 0]), choices[i].bits)
            if step + 1 < len(states):
                states[step + 1, previous] = values[i] / choices[i].bits[-1]
        return states, actions, values

    def measure(self, problem: Problem, policy: Policy) -> Score:
        """The policy's score after the search's short fine-tuning."""
        if not self.retrain_epochs:
            return problem.evaluate(policy)
        recipe = Recipe(
            epochs=self.retrain_epochs,
            images=self.retrain_images,
            batch=self.retrain_batch,
            lr=self.retrain_lr,
            schedule="constant",
            weight_decay=4e-5,
            augment=True,
        )
        return problem.evaluate(policy, retrain=recipe)

    def _settings(self) -> Settings:
        return Settings(
            hidden=(self.hidden1, self.hidden2),
            actor_lr=self.actor_lr,
            critic_lr=self.critic_lr,
            tau=self.tau,
            discount=self.discount,
            baseline_decay=self.baseline_decay,
            batch=self.batch,
            replay=self.replay,
        )


@register
@dataclass
class HAQKMeans(HAQ):
    """The size variant: weights in k-means codebooks, activation bits not searched.

    Free activation bits stay at the most that the space allows; its agent has a state of nine
    columns.
    """

    name: ClassVar[str] = "haq_kmeans"
    card: ClassVar[Card] = Card(
        title="HAQ: Hardware-Aware Automated Quantization with Mixed Precision (k-means)",
        year=2019,
        category="reinforcement",
        quantizer="haq_kmeans",
        granularity="layer",
        searches=("weight",),
        needs=frozenset({"calibration", "train", "valid"}),
        arxiv="1811.08886",
        venue="CVPR 2019",
        hardware_aware=True,
        deviations=(
            *SHARED_DEVIATIONS,
            "the previous action is scaled to [0, 1], as in the paper; the released code stores "
            "the bare bits",
            "the ends of the network are searched only where the protocol does not pin them",
        ),
    )
    recipe: ClassVar[Recipe | None] = Recipe(
        epochs=100, batch=256, lr=0.01, weight_decay=4e-5, augment=True
    )
    flagged: ClassVar[bool] = False
    retrain_batch: ClassVar[int] = 256

    def skip(self, problem: Problem) -> str | None:
        values = [c.bits[-1] if c.kind == "act" else c.bits[0] for c in problem.space.choices]
        if not problem.within(problem.space.decode(values)):
            return f"{self.name} leaves activations at their most bits: the budget cannot be met"
        return super().skip(problem)

    def steps(self, problem: Problem) -> list[int]:
        return [i for i, choice in enumerate(problem.space.choices) if choice.kind != "act"]
