"""AutoQ: Automated Kernel-Wise Neural Network Quantization (Lou et al., ICLR 2020).

arXiv 1902.05690. Two DDPG agents (`frameworks.core.agents.ddpg`) with different horizons:

- the high-level controller (HLC) steps through the layers, weights then activations, and emits for
  the weights a goal g_i, the mean weight bits of layer i (a real number), and for the activations
  their bits;
- the low-level controller (LLC) steps through the kernels (output channels) j of layer i and emits
  each one's bits a_ij; 0 prunes the kernel.

State (equation 1): layer i, kernel j, c_in, c_out, kernel size, stride, input size, depthwise flag,
weight/activation flag, goal, previous action; all in [0, 1]. The HLC's has no j and holds the
previous goal and the mean bits that the LLC made of it.

Extrinsic reward (equation 2), in the manner of NetScore, with accuracy as a share and each cost
metric of the target over that of uniform 8 bits:
    eR = log(acc^psi_accuracy / prod_m cost_m^psi_cost).
(psi_accuracy, psi_cost) = (1, 0) and actions cut to the budget: resource-constrained search;
(2, 0.5): accuracy-guaranteed search.

Intrinsic reward of the LLC (equation 3), here per kernel (divided by the number n_i of kernels):
    iR_i = -(1 - zeta) * |g_i - sum_j a_ij / n_i| + zeta * eR,
where zeta grows from 0.1 to 0.8 so that reaching the goals is learned first.

Off-policy correction (HIRO, arXiv 1805.08296): the HLC learns from goals that the present LLC would
have turned into the recorded actions (`frameworks.reinforcement.autoq.hiro`): of the goal set, the
mean reached and eight draws around it, the one with the greatest -1/2 sum_j (a_ij - mu_LLC(s_ij,
g))^2.

Budget: a goal (or activation bits) is clipped to the most that the budget allows while all later
decisions are at their fewest bits; the memory holds it as carried out. If the LLC overshoots its
goals, the policy is lowered by HAQ's action wall (`frameworks.core.search.wall`).

Episodes are counted as HAQ's are: by distinct policies (`frameworks.core.search.trials`).

Fewer episodes (100, not 400): explore : exploit at 1 : 4, noise_decay 0.04^(1 / exploit), and more
signal than the published settings have. ``reward_scale`` 10 lifts the HLC's rewards (hundredths, as
logarithms of accuracies are) to HAQ's tenths of points, above the noise of a critic just made. With
``low_discount`` 0 the LLC learns from a layer's reward, not from sums of it (at a ``low_actor_lr``
of 3e-4; at 1e-3 its actor saturates); and as the mean of independent noise over n kernels is
1 / sqrt(n) as large, hardly any mean but the actor's own would be tried without ``shared`` noise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar

import numpy as np
from scipy.special import ndtr

from frameworks.core.agents.ddpg import DDPG
from frameworks.core.agents.drl import ActorCriticSearch, layer_states
from frameworks.core.agents.replay import Array
from frameworks.core.card import Card
from frameworks.core.evaluation.evaluate import Score
from frameworks.core.evaluation.train import Recipe
from frameworks.core.policy import PRUNED, Bits, Policy
from frameworks.core.problem import Problem
from frameworks.core.registry import register
from frameworks.core.search.draws import kernels_of
from frameworks.core.search.wall import action_wall, affordable, assign, nearest_bits
from frameworks.core.solution import Solution
from frameworks.core.space import Choice
from frameworks.reinforcement.autoq.hiro import GoalMemory, LowSteps, TwoLevels

SMALLEST_ACCURACY = 1e-3  # stands in for an accuracy of 0 in the logarithm
STATIC = ("index", "in_channels", "out_channels", "kernel", "stride", "in_size", "depthwise")
KERNEL, FLAG, GOAL, PREVIOUS, COLUMNS = 7, 8, 9, 10, 11  # of the LLC; the HLC has no kernel


@dataclass
class Episode:
    """What one roll-out did, for learning."""

    policy: Policy
    states: Array  # of the HLC, [T, 10]
    actions: Array  # of the HLC, [T, 1]
    low: dict[int, LowSteps] = field(default_factory=dict)


@register
@dataclass
class AutoQ(ActorCriticSearch):
    """Kernel-wise weight bits and layer-wise activation bits by two controllers.

    Attributes:
        explore: the first policies, with constant noise; the LLC learns alone.
        exploit: those after that, with decaying noise.
        noise: sigma of the HLC's exploration noise.
        low_noise: sigma of the LLC's.
        noise_decay: factor on both sigmas for each exploited policy.
        prune: whether a kernel may get 0 bits (never all kernels of a layer).
        psi_accuracy: exponent of the accuracy in the extrinsic reward.
        psi_cost: exponent of each of the target's cost metrics.
        zeta_start: weight of the extrinsic in the intrinsic reward, first episode.
        zeta_end: the same, last episode; linear in between.
        correct: goals corrected per episode.
        updates: updates of each controller per episode, at most one per step.
        shared: part of the LLC's noise (of its variance) that the kernels of a layer share.
        reward_scale: factor on the extrinsic reward that the HLC learns from, as HIRO has one.
        low_actor_lr: learning rate of the LLC's actor.
        low_discount: discount of the LLC's later rewards (within a layer).
        low_replay: transitions that the LLC remembers.
    """

    name: ClassVar[str] = "autoq"
    card: ClassVar[Card] = Card(
        title="AutoQ: Automated Kernel-Wise Neural Network Quantization",
        year=2020,
        category="reinforcement",
        quantizer="autoq",
        quantization=("deterministic rounding",),
        granularity="kernel",
        searches=("weight", "act"),
        needs=frozenset({"calibration", "train", "valid"}),
        arxiv="1902.05690",
        venue="ICLR 2020",
        hardware_aware=True,
        deviations=(
            "no official code is known and the paper's sections could not be checked: the order "
            "of the state, the exponents, zeta's schedule, the controllers' hyper-parameters and "
            "the fine-tuning recipes are reconstructed from summaries and from HAQ and HIRO",
            "the intrinsic reward is per kernel; candidates end at the space's largest bits",
            "goals are corrected for a random part of the memory once an episode, by eight kernels "
            "a layer; updates are bounded, not one for each of an episode's kernels",
            "an action wall after HAQ's meets the budget for certain; the paper cuts actions only",
            "costs are the target's metrics, not those of a fitted FPGA estimator",
            "tied layers share their kernels' bits; with paired bits, or tied layers of different "
            "width, a layer counts as one kernel",
            "`explore` and `exploit` count distinct policies, and schedules go by them; the LLC "
            "learns from the first one on, so that goals mean something when the HLC begins to",
            "policies of equal reward are ranked by their loss",
        ),
    )
    recipe: ClassVar[Recipe | None] = Recipe(
        epochs=30, batch=256, lr=0.01, weight_decay=4e-5, augment=True
    )

    explore: int = 100
    exploit: int = 300
    noise: float = 0.5
    low_noise: float = 0.5
    noise_decay: float = 0.99
    prune: bool = True
    psi_accuracy: float = 1.0
    psi_cost: float = 0.0
    zeta_start: float = 0.1
    zeta_end: float = 0.8
    correct: int = 64
    updates: int = 16
    shared: float = 0.0
    reward_scale: float = 1.0
    low_actor_lr: float = 1e-4
    low_discount: float = 1.0
    low_replay: int = 20000

    def extrinsic(self, problem: Problem, policy: Policy, score: Score) -> float:
        """The reward eR of a measured policy (equation 2)."""
        reward = self.psi_accuracy * math.log(max(score.accuracy / 100, SMALLEST_ACCURACY))
        if self.psi_cost:
            uniform = problem.cost(problem.space.reference(8, 8))
            for metric, cost in problem.cost(policy).items():
                reward -= self.psi_cost * math.log(cost / uniform[metric])
        return reward

    def intrinsic(self, distance: Array, extrinsic: Array, zeta: float) -> Array:
        """The rewards iR of layers whose mean bits are ``distance`` from the goal (equation 3)."""
        return -(1 - zeta) * distance + zeta * extrinsic

    def candidates(self, choice: Choice) -> tuple[int, ...]:
        """What a kernel (or the layer's activations) may take, ascending."""
        zero = {PRUNED} if self.prune and choice.kind != "act" else set()
        return tuple(sorted({*choice.bits, *zero}))

    def roll_out(
        self, problem: Problem, high: DDPG, low: DDPG, sigma: float, low_sigma: float
    ) -> Episode:
        """Decide all layers once, with exploration noise of these sigmas."""
        choices = problem.space.choices
        static = layer_states(problem.layers, choices, STATIC)
        states = np.zeros((len(choices), COLUMNS - 1), np.float32)
        run = Episode(problem.space.lowest(), states, np.zeros((len(choices), 1), np.float32))
        goal, reached, last = 1.0, 1.0, 1.0
        for step, choice in enumerate(choices):
            states[step] = [*static[step], float(choice.kind != "act"), goal, reached]
            options = self.candidates(choice)
            scale = options[-1] - options[0]
            most = affordable(problem, run.policy, choice)
            wish = min(float(high.act(states[step], sigma)[0]), (most - options[0]) / scale)
            run.actions[step] = wish
            if choice.kind == "act":
                below = [b for b in choice.bits if b <= most]
                bits: Bits = min(below, key=lambda b: abs(b - wish * scale - options[0]))
            else:
                goal = wish
                count = kernels_of(problem.layers, choice)
                inputs, actions = self.step_kernels(low, static[step], goal, last, count, low_sigma)
                bits = nearest_bits(actions[:, 0], options)
                mean = float(np.mean(bits))
                reached, last = (mean - options[0]) / scale, float(actions[-1, 0])
                distance = abs(goal * scale + options[0] - mean)
                run.low[step] = LowSteps(inputs, actions, reached, distance)
            run.policy = assign(run.policy, choice, bits)
        run.policy = action_wall(problem, run.policy, choices)
        return run

    def step_kernels(
        self, low: DDPG, static: Array, goal: float, last: float, count: int, sigma: float
    ) -> tuple[Array, Array]:
        """The LLC's steps in one layer: states ``[count, 11]`` and actions ``[count, 1]``."""
        states = np.empty((count, COLUMNS), np.float32)
        states[:, :KERNEL] = static
        states[:, KERNEL] = np.linspace(0, 1, count)
        states[:, FLAG], states[:, GOAL] = 1, goal
        actions = np.empty((count, 1), np.float32)
        draws = low.rng.standard_normal(count + 1)
        noise = math.sqrt(self.shared) * draws[0] + math.sqrt(1 - self.shared) * draws[1:]
        for j, quantile in enumerate(ndtr(noise)):
            states[j, PREVIOUS] = last
            actions[j] = low.act(states[j], sigma, quantile)
            last = actions[j, 0]
        return states, actions

    def search(self, problem: Problem) -> Solution:
        low_settings = self.settings(
            actor_lr=self.low_actor_lr, discount=self.low_discount, replay=self.low_replay
        )
        high = DDPG(COLUMNS - 1, problem.rng("autoq-high"), self.settings())
        low = DDPG(COLUMNS, problem.rng("autoq-low"), low_settings)
        goals = GoalMemory(self.replay, COLUMNS, GOAL, last=GOAL - 1)
        learner = TwoLevels(high, low, goals, self.reward_scale)
        trials = self.trials(problem, self.explore + self.exploit)
        distances = list[float]()
        for clock in trials:
            decay = self.noise_decay ** max(clock - self.explore, 0)
            run = self.roll_out(problem, high, low, self.noise * decay, self.low_noise * decay)
            reward = self.extrinsic(problem, run.policy, trials.score(run.policy))
            trials.reward(run.policy, reward)
            distances.append(float(np.mean([x.distance for x in run.low.values()] or [0.0])))
            learner.remember(run.states, run.actions, reward, run.low)
            zeta = np.interp(clock, (0, trials.evaluations - 1), (self.zeta_start, self.zeta_end))
            learner.pay(partial(self.intrinsic, zeta=float(zeta)))
            steps = len(run.states) if clock >= self.explore else 0
            learner.learn(run.low, self.correct, self.updates, steps)
        return Solution(trials.best, notes={**trials.notes(), "goal_distances": distances})
