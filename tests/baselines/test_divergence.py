"""The KL of a network with one layer quantized, by hand; and what follows from it."""

import itertools

import pytest
import torch

from frameworks.baselines.divergence import Divergence, alone
from frameworks.core.policy import FLOAT
from frameworks.testing.toy import make_problem

BITS = (2, 4, 8)
NEEDS = frozenset({"calibration", "separable_cost"})


def problem(**more):
    return make_problem("bops", bits=BITS, needs=NEEDS, **more)


@torch.no_grad()
def by_hand(asked, policy, images):
    """The mean KL of the whole network at a policy, without any of the evaluator's savings."""
    v = asked.float_model()(images).double()
    z = asked.quantized(policy)(images).double()
    return float((v.softmax(1) * (v.log_softmax(1) - z.log_softmax(1))).sum(1).mean())


def test_losses_are_the_divergences_of_layers_quantized_alone():
    asked = problem()
    found = Divergence(images=40).sensitivity(asked)
    for choice in asked.space.choices:
        losses = getattr(found, choice.kind)[choice.layers[0]]
        for bits in choice.bits:
            want = by_hand(asked, alone(asked, choice, bits), asked.images[:40])
            assert losses[bits] == pytest.approx(want, rel=1e-3, abs=1e-6)


def test_one_decision_is_quantized_and_nothing_else():
    asked = problem()
    choice = asked.space.choices[0]
    policy = alone(asked, choice, 4)
    (name,) = choice.layers
    changed = {n for n, entry in policy.items() if (entry.weight, entry.act) != (FLOAT, FLOAT)}
    assert changed == {name}
    assert {policy[name].weight, policy[name].act} == {4, FLOAT}


def test_layers_that_are_tied_lose_as_one():
    names = [layer.name for layer in problem().space.free_layers][:2]
    asked = problem(groups=[names], paired=True)
    found = Divergence(images=16).sensitivity(asked)
    choice = next(c for c in asked.space.choices if set(names) <= set(c.layers))
    assert choice.kind == "both"
    for bits in BITS:
        total = sum(
            getattr(found, kind)[name][bits] for kind in ("weight", "act") for name in names
        )
        want = by_hand(asked, alone(asked, choice, bits), asked.images[:16])
        assert total == pytest.approx(want, rel=1e-3, abs=1e-6)


def test_the_policy_has_the_least_sum_of_all_within_the_budget():
    asked = problem(like=3)
    method = Divergence(images=16)
    solution = method.search(asked)
    assert asked.within(solution.policy)
    table = method.sensitivity(asked).table(asked)

    def loss(policy):
        return sum(table[n][b.weight, b.act] for n, b in policy.items())

    choices = [choice.bits for choice in asked.space.choices]
    every = map(asked.space.decode, itertools.product(*choices))
    least = min(loss(policy) for policy in every if asked.within(policy))
    assert loss(solution.policy) == pytest.approx(least)


def test_every_pass_is_counted_once():
    asked = problem()
    Divergence(images=16).sensitivity(asked)
    passes = sum(len(choice.bits) for choice in asked.space.choices)
    assert asked.meter.read().policies == passes
