"""Random policies within a budget, against small oracles."""

from collections import Counter
from itertools import islice, product

import numpy as np
import pytest

from frameworks.core.budget import BudgetSpec
from frameworks.core.policy import PRUNED
from frameworks.core.search.draws import Draws, decoded, kernels_of
from frameworks.testing import toy


def draws(problem, count, **options):
    return list(islice(Draws(problem, problem.rng("test"), **options), count))


TIGHT = [("bops", 2.2), ("size", 2.5), (toy.Peak(), 4)]


@pytest.mark.parametrize(("target", "like"), TIGHT)
def test_every_draw_is_within_and_uses_the_budget(target, like):
    problem = toy.make_problem(target, like=like)
    for policy in draws(problem, 30):
        problem.space.validate(policy)
        assert problem.within(policy)
        values = list(problem.space.encode(policy))
        for i, choice in enumerate(problem.space.choices):
            for bits in choice.bits:
                if bits > values[i]:
                    raised = problem.space.decode([*values[:i], bits, *values[i + 1 :]])
                    assert not problem.within(raised), "one more step would still have fit"


@pytest.mark.parametrize(("target", "like"), TIGHT)
def test_every_kernel_wise_draw_is_within_and_uses_the_budget(target, like):
    problem = toy.make_problem(target, like=like)
    mixed = 0
    for policy in draws(problem, 20, kernels=True):
        problem.space.validate(policy)
        assert problem.within(policy)
        for layer in problem.space.free_layers:
            bits = policy[layer.name].channels(layer.out_channels)
            mixed += len(set(bits)) > 1
            for k, b in enumerate(bits):
                for more in (m for m in problem.space.weight_bits[layer.name] if m > b):
                    raised = policy.replace(layer.name, weight=(*bits[:k], more, *bits[k + 1 :]))
                    assert not problem.within(raised), "one more step would still have fit"
    assert mixed > 10


def test_a_plain_draw_is_the_draw_itself_or_stops_where_it_first_fits():
    """Without refilling, the last step down is what made it fit: undone, it is over budget."""
    problem = toy.make_problem("size", like=2.5)
    over, fitting = Counter(), 0
    for seed in range(60):
        drawn = _choices(problem, seed)
        policy = Draws(problem, np.random.default_rng(seed), refill=False).policy()
        if problem.within(problem.space.decode(drawn)):
            assert policy == problem.space.decode(drawn)
            fitting += 1
            continue
        values = problem.space.encode(policy)
        assert all(v <= d for v, d in zip(values, drawn, strict=True))
        undone = [
            [*values[:i], c.bits[c.bits.index(v) + 1], *values[i + 1 :]]
            for i, (v, c, d) in enumerate(zip(values, problem.space.choices, drawn, strict=True))
            if v < d
        ]
        over[any(not problem.within(problem.space.decode(u)) for u in undone)] += 1
    assert over[False] == 0
    assert over[True] > 10


def _choices(problem, seed):
    rng = np.random.default_rng(seed)
    return [int(rng.choice(choice.bits)) for choice in problem.space.choices]


def test_layer_by_layer_is_kernel_by_kernel_of_layers_with_one_kernel():
    """Paired bits have one number a layer: both ways give the same policies from the same seed."""
    problem = toy.make_problem(paired=True)
    assert draws(problem, 20) == draws(problem, 20, kernels=True)


def test_draws_reach_every_candidate():
    problem = toy.make_problem(like=4)
    found = [problem.space.encode(policy) for policy in draws(problem, 150)]
    for i, choice in enumerate(problem.space.choices):
        assert {values[i] for values in found} == set(choice.bits)


def test_kernels_reach_every_candidate_and_layers_differ_in_their_mean():
    problem = toy.make_problem(like=8)  # no repair
    found = draws(problem, 200, kernels=True, refill=False)
    for layer in problem.space.free_layers:
        bits = [policy[layer.name].channels(layer.out_channels) for policy in found]
        assert {b for one in bits for b in one} == set(problem.space.weight_bits[layer.name])
        means = [np.mean(one) for one in bits]
        # Independent draws of 8 or 16 kernels would have a spread of at most 0.75.
        assert np.std(means) > 1


def test_kernels_lie_between_the_two_ends_with_equal_chances():
    """Exact: of three candidates, two ends are equal in 3 of 9 draws, and one kernel in all three
    bits with the chances of a sum over the ends."""
    problem = toy.make_problem(like=8, bits=(2, 4, 8))
    found = draws(problem, 3000, kernels=True, refill=False)
    name = problem.space.free_layers[0].name
    first = Counter(p[name].channels(8)[0] for p in found)
    expected = Counter()
    for low, high in product(range(3), repeat=2):
        low, high = sorted((low, high))
        for i in range(low, high + 1):
            expected[(2, 4, 8)[i]] += 1 / 9 / (high - low + 1)
    assert sum(expected.values()) == pytest.approx(1)
    for bits, share in expected.items():
        assert first[bits] / len(found) == pytest.approx(share, abs=0.03)


def test_pruned_kernels_are_drawn_but_never_all_of_a_layer():
    problem = toy.make_problem(like=8)
    found = draws(problem, 100, kernels=True, prune=True)
    bits = [p[x.name].channels(x.out_channels) for p in found for x in problem.space.free_layers]
    assert any(PRUNED in one for one in bits)
    assert all(any(one) for one in bits)
    assert not any(
        PRUNED in p[x.name].channels(x.out_channels)
        for p in draws(problem, 50, kernels=True)
        for x in problem.space.free_layers
    )


def test_draws_meet_budgets_that_fewer_bits_do_not():
    problem = toy.make_problem(toy.Valley(), budget=BudgetSpec(like=4.5), bits=(2, 4, 8))
    assert not problem.within(problem.space.lowest())
    for options in ({}, {"refill": False}):
        found = draws(problem, 30, **options)
        assert all(problem.within(policy) for policy in found)
        assert len(set(found)) > 5


def test_where_no_policy_fits_the_cheapest_remains():
    problem = toy.make_problem("size", like=4)
    problem.budget = type(problem.budget)("size", 1.0)
    assert set(draws(problem, 5, refill=False)) == {problem.space.lowest()}


def test_kernels_of_decisions():
    problem = toy.make_problem(groups=[("blocks.0.conv1", "blocks.0.conv2")])
    counts = {(c.layers, c.kind): kernels_of(problem.layers, c) for c in problem.space.choices}
    assert counts[("blocks.0.conv1", "blocks.0.conv2"), "weight"] == 8
    assert counts[("blocks.1.pointwise",), "weight"] == 16
    assert all(count == 1 for (_, kind), count in counts.items() if kind == "act")
    wide = toy.make_problem(groups=[("blocks.0.conv1", "blocks.1.pointwise")])
    assert [kernels_of(wide.layers, c) for c in wide.space.choices if len(c.layers) == 2] == [1, 1]
    paired = toy.make_problem(paired=True)
    assert {kernels_of(paired.layers, c) for c in paired.space.choices} == {1}


def test_decoding_is_that_of_the_space_where_layers_have_one_number():
    problem = toy.make_problem()
    for policy in draws(problem, 10):
        assert decoded(problem.space, problem.space.encode(policy)) == policy
