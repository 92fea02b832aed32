from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest

from frameworks.core.budget import BudgetSpec
from frameworks.core.policy import PRUNED
from frameworks.core.search.wall import (
    action_wall,
    affordable,
    assign,
    chosen,
    lowered,
    nearest_bits,
    refilled,
)
from frameworks.core.target import Target
from frameworks.testing import toy


@dataclass(frozen=True)
class BitCount(Target):
    """A bit costs the same in every layer, so that budgets can be counted on fingers."""

    name: ClassVar = "bit_count"
    kind: ClassVar = "model"
    metrics: ClassVar = {"bits": "bits"}
    separable: ClassVar = True

    def cost(self, layers, policy):
        return {"bits": sum(policy[x.name].mean_weight + policy[x.name].act for x in layers)}


def problem(**options):
    return toy.make_problem(bits=(2, 4, 8), **options)


def test_kernel_bits_are_the_nearest_candidates():
    actions = np.array([0.0, 0.1, 0.3, 0.55, 0.8, 1.0])
    # Wishes 0, 0.8, 2.4, 4.4, 6.4, 8.
    assert nearest_bits(actions, (0, 2, 4, 8)) == (0, 0, 2, 4, 8, 8)
    assert nearest_bits(np.array([0.05, 0.1, 0.02]), (0, 2, 4, 8)) == (0, 2, 0)
    assert nearest_bits(np.array([0.5]), (2, 4, 8)) == 4


def test_lowered():
    assert lowered(8, (2, 4, 8)) == 4
    assert lowered(2, (2, 4, 8)) == 2
    assert lowered((8, 4, 2, PRUNED), (2, 4, 8)) == (4, 2, 2, PRUNED)


def test_assign_and_chosen_are_inverse():
    made = problem()
    policy = made.space.highest()
    for choice in made.space.choices:
        for bits in choice.bits:
            changed = assign(policy, choice, bits)
            assert chosen(changed, choice) == bits
            others = [c for c in made.space.choices if c is not choice]
            assert all(chosen(changed, c) == chosen(policy, c) for c in others)


def test_the_wall_by_hand():
    """From the last decision back, one step each, and it stops at the first policy that fits."""
    made = problem(like=4)
    choices = made.space.choices
    expected = made.space.highest()
    while not made.within(expected):
        for choice in reversed(choices):
            bits = chosen(expected, choice)
            expected = assign(expected, choice, {8: 4, 4: 2, 2: 2}[bits])
            if made.within(expected):
                break
    walled = action_wall(made, made.space.highest(), choices)
    assert walled == expected
    assert walled != made.space.lowest()


@pytest.mark.parametrize(
    ("over", "expected"),
    # Steps of 8 to 4 save 4 bits and steps of 4 to 2 save 2; there are four free layers.
    [
        (1, [(8, 8), (8, 8), (8, 8), (8, 4)]),
        (5, [(8, 8), (8, 8), (8, 8), (4, 4)]),
        (9, [(8, 8), (8, 8), (8, 4), (4, 4)]),
        (32, [(4, 4), (4, 4), (4, 4), (4, 4)]),
        (33, [(4, 4), (4, 4), (4, 4), (4, 2)]),
        (37, [(4, 4), (4, 4), (4, 2), (2, 2)]),
    ],
)
def test_the_wall_on_fingers(over, expected):
    made = problem(target=BitCount(), like=8)
    highest = made.space.highest()
    limit = made.cost(highest)["bits"] - over
    made = problem(target=BitCount(), budget=BudgetSpec(limit=limit))
    walled = action_wall(made, highest, made.space.choices)
    free = [walled[layer.name] for layer in made.space.free_layers]
    assert [(bits.weight, bits.act) for bits in free] == expected


def test_what_cannot_fit_ends_at_the_fewest_bits():
    made = problem(target=BitCount(), like=8)
    made = made.at(budget=replace(made.budget, limit=1))
    assert action_wall(made, made.space.highest(), made.space.choices) == made.space.lowest()


def test_what_fits_is_left_alone():
    made = problem(like=8)
    policy = made.space.reference(4, 8)
    assert action_wall(made, policy, made.space.choices) == policy


def test_as_few_channels_as_needed_are_lowered():
    made = problem(target="size", like=8)
    choice = made.space.choices[-1]
    layer = next(x for x in made.layers if x.name == choice.layers[0])
    mixed = (4,) + (8,) * (layer.out_channels - 1)
    full = assign(made.space.highest(), choice, mixed)
    per_channel = layer.params // layer.out_channels * 4 / 8  # bytes from 8 to 4 bits
    limit = made.cost(full)["size"] - 2.5 * per_channel
    made = problem(target="size", budget=BudgetSpec(limit=limit))
    walled = chosen(action_wall(made, full, made.space.choices), choice)
    assert walled == (4,) + (8,) * (layer.out_channels - 4) + (4,) * 3


def test_it_ends_within_a_cost_that_is_no_sum():
    made = toy.make_problem(toy.Peak(), like=3)
    assert made.within(action_wall(made, made.space.highest(), made.space.choices))


def test_affordable_is_where_the_budget_ends():
    made = problem(target="size", like=8)
    choice, low = made.space.choices[0], made.space.lowest()
    costs = {bits: made.cost(assign(low, choice, bits))["size"] for bits in (2, 4, 8)}
    for limit, bits in (
        (costs[8], 8),
        ((costs[4] + costs[8]) / 2, 6),
        (costs[4], 4),
        (costs[2] + (costs[4] - costs[2]) / 4, 2.5),
    ):
        made = problem(target="size", budget=BudgetSpec(limit=limit))
        assert affordable(made, low, choice) == pytest.approx(bits)


def test_affordable_activations_are_candidates():
    made = problem(like=3)
    choice = next(c for c in made.space.choices if c.kind == "act")
    most = affordable(made, made.space.lowest(), choice)
    assert most in choice.bits
    assert made.within(assign(made.space.lowest(), choice, int(most)))
    higher = [b for b in choice.bits if b > most]
    assert not any(made.within(assign(made.space.lowest(), choice, b)) for b in higher)


def filled(left, wish, seed=0, gain=None):
    """Bits of the eight decisions, from 2 each, where so many are left; a bit costs one."""
    made = problem(target=BitCount(), budget=BudgetSpec(limit=32 + 8 * 2 + left))
    space, rng = made.space, np.random.default_rng(seed)
    return space.encode(refilled(made, space.lowest(), space.decode(wish), rng, gain))


def test_what_is_left_goes_first_to_what_lies_furthest_below_the_wish():
    # 9 bits: 6 for the wish, 2 for any other decision, and 1 that no step can use.
    drawn = {filled(9, (2, 2, 2, 8, 2, 2, 2, 2), seed) for seed in range(30)}
    assert {bits[3] for bits in drawn} == {8}
    assert {bits.index(4) for bits in drawn} == {0, 1, 2, 4, 5, 6, 7}
    assert all(sorted(bits) == [2] * 6 + [4, 8] for bits in drawn)


def test_no_decision_takes_a_second_step_before_the_others_took_one():
    assert filled(16, (2,) * 8) == (4,) * 8
    assert sorted(filled(16 + 4, (2,) * 8)) == [4] * 7 + [8]
    wish = (4, 2, 4, 2, 4, 2, 4, 2)
    assert filled(8, wish) == wish


def test_of_equal_ones_what_gains_most_goes_first():
    places = {choice: i for i, choice in enumerate(problem().space.choices)}

    def gain(choice, bits):
        return {2: {5: 3.0, 1: 2.0}, 4: {5: 9.0}}[bits].get(places[choice], 0.0)

    assert filled(4, (2,) * 8, gain=gain) == (2, 4, 2, 2, 2, 4, 2, 2)


def test_where_no_step_fits_nothing_is_raised():
    assert filled(1, (8,) * 8) == (2,) * 8
