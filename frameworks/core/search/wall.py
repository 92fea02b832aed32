"""HAQ's action wall (arXiv 1811.08886, section 3.4): lower a policy until it fits the budget.

From the last decision to the first (last layer first, activations before weights), each is lowered
by one candidate, and the budget is tested after each; pass after pass, until the budget is met or
all is at its fewest bits. With bits per output channel, all channels of a layer are lowered
together, and in the layer that reaches the budget only as many (from the last) as are needed.
Nothing is raised afterwards, so that a part of the last step's saving stays unused; searches whose
paper has no budget may give it back (`refilled`).
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from frameworks.core.policy import PRUNED, Bits, Policy
from frameworks.core.problem import Problem
from frameworks.core.space import Choice


def assign(policy: Policy, choice: Choice, bits: Bits) -> Policy:
    """The policy with one (perhaps tied) decision changed."""
    for name in choice.layers:
        if choice.kind == "weight":
            policy = policy.replace(name, weight=bits)
            continue
        assert isinstance(bits, int), "activations have the same bits in all channels"
        policy = policy.replace(name, weight=bits if choice.kind == "both" else None, act=bits)
    return policy


def chosen(policy: Policy, choice: Choice) -> Bits:
    """The bits that a policy gives to a decision."""
    entry = policy[choice.layers[0]]
    return entry.act if choice.kind == "act" else entry.weight


def lowered(bits: Bits, candidates: Sequence[int]) -> Bits:
    """Each entry one candidate lower; what is at the fewest bits, or pruned, stays."""
    if isinstance(bits, tuple):
        return tuple(max((c for c in candidates if c < b), default=b) for b in bits)
    return max((c for c in candidates if c < bits), default=bits)


def nearest_bits(actions: npt.NDArray[np.float32], options: Sequence[int]) -> Bits:
    """Bits of each channel for its action in [0, 1] ``[channels]``: the nearest option.

    Actions are spread evenly from the first option to the last; the largest is never pruned.
    """
    table = np.array(options)
    wishes = options[0] + actions * (options[-1] - options[0])
    bits = table[np.abs(wishes[:, None] - table).argmin(1)]
    if not bits.any():
        bits[actions.argmax()] = table[table > PRUNED][0]
    return tuple(bits.tolist()) if len(bits) > 1 else int(bits[0])


def affordable(problem: Problem, policy: Policy, choice: Choice) -> float:
    """The most bits of a decision within the budget, all else as in ``policy``.

    For weights a real number, the mean over channels: between two candidates the cost is taken as
    linear. The fewest bits where nothing fits.
    """
    limit = problem.budget.limit
    above: tuple[int, float] | None = None
    for bits in reversed(choice.bits):
        trial = assign(policy, choice, bits)
        cost = problem.budget.load(problem.cost(trial))
        if problem.within(trial):
            if above is None or choice.kind == "act":
                return bits
            return bits + (above[0] - bits) * max(limit - cost, 0) / (above[1] - cost)
        above = bits, cost
    return choice.bits[0]


def action_wall(problem: Problem, policy: Policy, choices: Sequence[Choice]) -> Policy:
    """The policy lowered as the module says; only the given decisions, in execution order."""
    over, moved = not problem.within(policy), True
    while over and moved:
        moved = False
        for choice in reversed(choices):
            bits = chosen(policy, choice)
            lower = lowered(bits, choice.bits)
            if lower == bits:
                continue
            moved = True
            trial = assign(policy, choice, lower)
            over = not problem.within(trial)
            if not over:
                return _fewest(problem, policy, choice, lower)
            policy = trial
    return policy


def refilled(
    problem: Problem,
    policy: Policy,
    wish: Policy,
    rng: np.random.Generator,
    gain: Callable[[Choice, int], float] | None = None,
) -> Policy:
    """A policy within the budget, raised by what it leaves of it; without bits per channel.

    Step by step, to the next width that fits: what lies furthest below the wish goes first, or,
    once all have what they wish, what lies least above it, so that the wish keeps its effect.

    Args:
        problem: its budget is used until no single step fits.
        policy: within the budget.
        wish: what it was before it was lowered.
        rng: draws the order of equal ones.
        gain: of those equally far from their wish, what a decision at its bits gains by a step;
            the greatest goes first.
    """
    space = problem.space
    bits, wished = list(space.encode(policy)), space.encode(wish)

    def turn(i: int) -> tuple[float, float, float, int]:
        gained = gain(space.choices[i], bits[i]) if gain else 0.0
        return bits[i] - wished[i], -gained, float(rng.random()), i

    waiting = [turn(i) for i in range(len(bits))]
    heapq.heapify(waiting)
    while waiting:
        i = heapq.heappop(waiting)[-1]
        for more in (b for b in space.choices[i].bits if b > bits[i]):
            raised = space.decode([*bits[:i], more, *bits[i + 1 :]])
            if problem.within(raised):
                bits[i], policy = more, raised
                heapq.heappush(waiting, turn(i))
                break
    return policy


def _fewest(problem: Problem, policy: Policy, choice: Choice, lower: Bits) -> Policy:
    """Lower as few channels as the budget asks for; lowering all of them meets it."""
    bits = chosen(policy, choice)
    if not isinstance(bits, tuple):
        return assign(policy, choice, lower)
    less = lower if isinstance(lower, tuple) else (lower,) * len(bits)
    kept, too_many = 0, len(bits)  # channels that stay: known to fit, known not to fit
    while too_many - kept > 1:
        middle = (kept + too_many) // 2
        trial = assign(policy, choice, bits[:middle] + less[middle:])
        kept, too_many = (middle, too_many) if problem.within(trial) else (kept, middle)
    return assign(policy, choice, bits[:kept] + less[kept:])
