"""What searches by actor-critic agents share: hyper-parameters, layer features, measuring."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from frameworks.core.agents.ddpg import Settings
from frameworks.core.agents.replay import Array
from frameworks.core.evaluation.train import Recipe
from frameworks.core.framework import Framework
from frameworks.core.layers import Layer
from frameworks.core.problem import Problem
from frameworks.core.search.trials import Trials
from frameworks.core.space import Choice

FEATURES: Mapping[str, Callable[[Layer], float]] = {
    "depthwise": lambda x: float(x.depthwise),
    "in_channels": lambda x: x.in_channels,
    "out_channels": lambda x: x.out_channels,
    "stride": lambda x: x.stride[0] if x.kind == "conv" else 0,
    "kernel": lambda x: x.kernel[0],
    "params": lambda x: x.params,
    "in_size": lambda x: math.prod(x.in_size),
    "index": lambda x: x.index,
}
"""Facts of a layer that a state may hold; fully connected layers have stride 0 and kernel 1."""


def layer_states(
    layers: Sequence[Layer], choices: Sequence[Choice], columns: Sequence[str]
) -> Array:
    """Features of each decision's (first) layer ``[decisions, columns]``, scaled to [0, 1].

    Each column is min-max scaled over all layers; a column that is the same for all is 0.
    """
    rows = [[FEATURES[column](layer) for column in columns] for layer in layers]
    table = np.array(rows, np.float64)
    low, span = table.min(0), np.ptp(table, axis=0)
    scaled: Array = ((table - low) / np.where(span > 0, span, 1)).astype(np.float32)
    index = {layer.name: row for row, layer in enumerate(layers)}
    return scaled[[index[choice.layers[0]] for choice in choices]]


@dataclass
class ActorCriticSearch(Framework):
    """A framework whose episodes are policies, measured after a short fine-tuning.

    Attributes:
        hidden1: units of the first hidden layer of actors and critics.
        hidden2: units of the second.
        actor_lr: learning rate of the actors.
        critic_lr: learning rate of the critics.
        tau: speed of the target networks.
        discount: discount of later rewards.
        baseline_decay: speed of the moving reward baseline; 0 for none.
        batch: transitions an update.
        replay: transitions remembered.
        draws: episodes at most, in multiples of the distinct policies to be evaluated
            (`frameworks.core.search.trials`).
        retrain_epochs: epochs of fine-tuning before a policy is measured, where the protocol
            trains; 0 for none.
        retrain_images: training images an epoch.
        retrain_lr: their learning rate.
    """

    evaluates: ClassVar[tuple[str, ...]] = ("episodes", "explore", "exploit")
    lowers_bits: ClassVar[bool] = True
    searches_choices: ClassVar[bool] = True
    retrain_batch: ClassVar[int] = 128
    retrain_decay: ClassVar[float] = 4e-5

    hidden1: int = 400
    hidden2: int = 300
    actor_lr: float = 1e-4
    critic_lr: float = 1e-3
    tau: float = 0.01
    discount: float = 1.0
    baseline_decay: float = 0.5
    batch: int = 64
    replay: int = 2000
    draws: float = 3.0
    retrain_epochs: float = 1
    retrain_images: int = 20000
    retrain_lr: float = 1e-3

    def validate(self) -> None:
        super().validate()
        if self.draws < 1:
            raise ValueError(f"draws = {self.draws}: must be at least 1 episode an evaluation")

    def settings(self, **changes: Any) -> Settings:
        """The agent's part of the hyper-parameters, with some changed."""
        found = Settings(
            hidden=(self.hidden1, self.hidden2),
            actor_lr=self.actor_lr,
            critic_lr=self.critic_lr,
            tau=self.tau,
            discount=self.discount,
            baseline_decay=self.baseline_decay,
            batch=self.batch,
            replay=self.replay,
        )
        return replace(found, **changes)

    def trials(self, problem: Problem, evaluations: int) -> Trials:
        """The episodes that it takes to evaluate so many distinct policies."""
        recipe = Recipe(
            epochs=self.retrain_epochs,
            images=self.retrain_images,
            batch=self.retrain_batch,
            lr=self.retrain_lr,
            schedule="constant",
            weight_decay=self.retrain_decay,
            augment=True,
        )
        retrain = recipe if self.retrain_epochs else None
        return Trials(
            problem, evaluations, self.draws, lambda policy: problem.evaluate(policy, retrain)
        )
