"""The walk over the layers that ReLeQ's agent takes: its states, and what its choices lead to.

A state has eight columns, and on spaces with decisions about activations a ninth:

    index / L, bits / b_max, State_Q, State_A, n, c, k, std, (1 for weights)

with the place l of the layer in the network from 1, the bits that the decision has so far, and the
layer's output channels n, input channels c, kernel k (0 for a fully connected layer), each min-max
scaled over the layers that are searched, and the standard deviation of its weights.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from frameworks.core.agents.ppo import PPO, Episode
from frameworks.core.agents.replay import Array
from frameworks.core.layers import Layer
from frameworks.core.policy import Policy
from frameworks.core.problem import Problem
from frameworks.core.search.wall import action_wall, refilled
from frameworks.core.space import Choice
from frameworks.reinforcement.releq.rewards import quantization, weights_of


class Walk:
    """Where the decisions of a space stand, while an agent takes them one by one.

    Attributes:
        bits: of each decision, as the agent has chosen them.
        accuracy: State_A of the policy measured last.
        place: the decision that is next.
        offered: ``[decisions, actions]``, which of the actions each may take.
        least: State_Q where all have the fewest bits.

    Args:
        problem: its space is walked through, in execution order.
        energy: whether State_Q weighs layers by their energy.
    """

    def __init__(self, problem: Problem, energy: bool = False) -> None:
        self.problem, self.choices = problem, problem.space.choices
        self.widths = sorted({bits for choice in self.choices for bits in choice.bits})
        self.offered: npt.NDArray[np.bool_] = np.array(
            [[bits in choice.bits for bits in self.widths] for choice in self.choices]
        )
        self.weights = weights_of(problem.layers, self.choices, energy)
        self.static = static_facts(problem)
        self.least = self.quantization([choice.bits[0] for choice in self.choices])
        self.reset()

    def reset(self) -> None:
        """All decisions at their most bits, the accuracy that of the float network."""
        self.bits = [choice.bits[-1] for choice in self.choices]
        self.accuracy, self.place = 1.0, 0

    def quantization(self, bits: list[int]) -> float:
        """State_Q of decisions at these bits."""
        return quantization(bits, self.choices, self.weights)

    def state(self) -> Array:
        """What the agent sees before the next decision."""
        index, n, c, k, std, *flag = self.static[self.place]
        share = self.bits[self.place] / self.choices[self.place].bits[-1]
        moving = (share, self.quantization(self.bits), self.accuracy)
        return np.array([index, *moving, n, c, k, std, *flag], np.float32)

    def take(self, action: int) -> bool:
        """Give the next decision the bits of an action; whether that was the last one."""
        self.bits[self.place] = self.widths[action]
        self.place = (self.place + 1) % len(self.choices)
        return self.place == 0

    def follow(self, agent: PPO, episode: Episode, *, single: bool, greedy: bool) -> None:
        """Take an agent's decisions, a single one or up to the last layer, in an episode of its.

        Steps that another one follows have a reward of 0; that of the last one is still to come.
        """
        while True:
            action = agent.act(episode, self.state(), self.offered[self.place], greedy=greedy)
            if self.take(action) or single:
                return
            episode.rewards.append(0.0)

    def policy(self, refill: bool) -> Policy:
        """The policy of the bits in force, lowered until it is within the budget (HAQ's wall).

        Args:
            refill: whether what that leaves of the budget is given back.
        """
        wish = self.problem.space.decode(self.bits)
        policy = action_wall(self.problem, wish, self.choices)
        if not refill:
            return policy
        # One order for each wish, so that the same actions earn the same.
        return refilled(self.problem, policy, wish, self.problem.rng(f"refill {self.bits}"))

    def excess(self) -> float:
        """By what share of the way from the budget to the most bits the bits in force exceed it."""
        problem, wish = self.problem, self.problem.space.decode(self.bits)
        if problem.within(wish):
            return 0.0
        load, limit = problem.budget.load, problem.budget.limit
        most = load(problem.cost(problem.space.highest()))
        return max(load(problem.cost(wish)) - limit, 0.0) / (most - limit) if most > limit else 0.0


def static_facts(problem: Problem) -> Array:
    """What a state says of each decision's (first) layer that never changes: ``[decisions, 5+]``.

    index / L, n, c, k, std, and the flag where there are decisions about activations.
    """
    layers, choices = problem.space.free_layers, problem.space.choices
    shapes = np.array([_shape(layer) for layer in layers], np.float64)
    low, span = shapes.min(0), np.ptp(shapes, axis=0)
    scaled = (shapes - low) / np.where(span > 0, span, 1)
    rows = {
        layer.name: [(layer.index + 1) / len(problem.layers), *shape, _spread(problem, layer)]
        for layer, shape in zip(layers, scaled, strict=True)
    }
    flagged = any(choice.kind == "act" for choice in choices)
    found = [rows[c.layers[0]] + _flag(c) * flagged for c in choices]
    return np.array(found, np.float32)


def _shape(layer: Layer) -> tuple[int, int, int]:
    return layer.out_channels, layer.in_channels, layer.kernel[0] if layer.kind == "conv" else 0


def _spread(problem: Problem, layer: Layer) -> float:
    weight = problem.network.get_submodule(layer.name).weight
    assert isinstance(weight, torch.Tensor)
    return float(weight.detach().std(correction=0))


def _flag(choice: Choice) -> list[float]:
    return [float(choice.kind != "act")]
