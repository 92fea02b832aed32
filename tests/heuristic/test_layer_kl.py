"""The KL of a network with one layer quantized, by hand; and what follows from it."""

import itertools

import numpy as np
import pytest
import torch

from frameworks import Score
from frameworks.core.policy import FLOAT
from frameworks.core.search.alone import alone, decided
from frameworks.heuristic.layer_kl import LayerKL, LayerKLRefined, neighbour
from frameworks.testing.toy import make_problem

BITS = (2, 4, 8)
NEEDS = frozenset({"calibration", "separable_cost"})


def problem(**more):
    return make_problem("bops", bits=BITS, **{"needs": NEEDS, **more})


@torch.no_grad()
def by_hand(asked, policy, images):
    """The mean KL of the whole network at a policy, without any of the evaluator's savings."""
    v = asked.float_model()(images).double()
    z = asked.correct(asked.quantized(policy))(images).double()
    return float((v.softmax(1) * (v.log_softmax(1) - z.log_softmax(1))).sum(1).mean())


def test_losses_are_the_divergences_of_layers_quantized_alone():
    asked = problem()
    method = LayerKL(images=40)
    table = method.losses(asked, method.score(asked))
    for names, pairs in decided(asked):
        for pair in pairs:
            want = by_hand(asked, alone(asked, names, pair), asked.images[:40])
            assert table[names[0]][pair] == pytest.approx(want, rel=1e-3, abs=1e-6)


def test_one_layer_is_quantized_and_nothing_else():
    asked = problem()
    (name,), _ = next(decided(asked))
    policy = alone(asked, (name,), (4, 2))
    assert (policy[name].weight, policy[name].act) == (4, 2)
    others = {(entry.weight, entry.act) for n, entry in policy.items() if n != name}
    assert others == {(FLOAT, FLOAT)}


def test_layers_that_are_tied_lose_as_one():
    names = [layer.name for layer in problem().space.free_layers][:2]
    asked = problem(groups=[names], paired=True)
    method = LayerKL(images=16)
    table = method.losses(asked, method.score(asked))
    for bits in BITS:
        total = sum(table[name][bits, bits] for name in names)
        want = by_hand(asked, alone(asked, tuple(names), (bits, bits)), asked.images[:16])
        assert total == pytest.approx(want, rel=1e-3, abs=1e-6)


def test_the_policy_has_the_least_sum_of_all_within_the_budget():
    asked = problem(like=3)
    method = LayerKL(images=16)
    scores = method.score(asked)
    found = method.solve(asked, scores).policy
    table = method.losses(asked, scores)

    def loss(policy):
        return sum(table[n][b.weight, b.act] for n, b in policy.items())

    choices = [choice.bits for choice in asked.space.choices]
    every = map(asked.space.decode, itertools.product(*choices))
    least = min(loss(policy) for policy in every if asked.within(policy))
    assert asked.within(found)
    assert loss(found) == pytest.approx(least)


def test_one_scoring_pass_serves_all_budgets():
    asked = problem()
    method = LayerKL(images=16)
    scores = method.score(asked)
    passes = sum(len(pairs) for _, pairs in decided(asked))
    spent = asked.meter.read()
    assert spent.policies == 0
    assert spent.images_forward > 16 * passes
    for like in (2.5, 3, 4):
        other = problem(like=like)
        assert other.within(method.solve(other, scores).policy)
        assert other.meter.read().images_forward == 0


def test_a_neighbour_is_a_step_away_in_one_to_three_decisions():
    space = problem().space
    middle = space.decode([4] * len(space.choices))
    rng = np.random.default_rng(0)
    counts = set()
    for _ in range(200):
        values = space.encode(neighbour(space, middle, rng))
        counts.add(sum(v != 4 for v in values))
        assert set(values) <= {2, 4, 8}
    assert counts == {1, 2, 3}
    # At the end of the list a step outwards stays.
    low = space.encode(neighbour(space, space.lowest(), rng))
    assert set(low) <= {2, 4}


class Bowl(dict):
    """Losses by the distance from a policy whose layers are at 8 and 2 bits in turns."""

    def __missing__(self, policy):
        wish = [8 if i % 2 else 2 for i, _ in enumerate(policy)]
        off = [abs(b.weight - w) + abs(b.act - w) for b, w in zip(policy.values(), wish)]  # noqa: B905
        return Score(50.0, float(sum(off)))


def test_moves_only_lower_the_measured_loss():
    every = NEEDS | {"valid"}
    asked = problem(like=4, needs=every).at(known=Bowl())
    method = LayerKLRefined(images=16, refine=30)
    solution = method.search(asked)
    curve = solution.notes["losses"]
    assert curve == sorted(curve, reverse=True)
    assert curve[-1] < curve[0]
    assert solution.notes["distinct"] == len(curve) == 30
    assert asked.within(solution.policy)
    assert asked.evaluate(solution.policy).loss == curve[-1]
