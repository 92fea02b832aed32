from collections.abc import Mapping
from itertools import product
from typing import ClassVar

import pytest

from frameworks.baselines.uniform import Uniform
from frameworks.core.budget import BudgetSpec
from frameworks.core.policy import LayerBits, Policy
from frameworks.core.target import SeparableTarget
from frameworks.testing import toy

BITS = (2, 4, 8)


def brute_force(problem, paired=False):
    """Every uniform policy within the budget, scored on a problem of its own."""
    acts = BITS if problem.target.prices_activations else (8,)
    judge = problem.at()
    found = []
    for w, a in product(BITS, acts):
        if paired and len(acts) > 1 and w != a:
            continue
        policy = Policy(
            {
                x.name: LayerBits(8, 8) if x in (judge.layers[0], judge.layers[-1]) else (w, a)
                for x in judge.layers
            }
        )
        if judge.within(policy):
            score = judge.evaluate(policy)
            found.append(((score.accuracy, -score.loss), (w, a), policy))
    return found


@pytest.mark.parametrize("like", [2, 2.5, 3, 4, 6])
@pytest.mark.parametrize("target", ["bops", "size"])
@pytest.mark.parametrize("paired", [False, True])
def test_agrees_with_brute_force(target, like, paired):
    problem = toy.make_problem(target, like=like, bits=BITS)
    solution = Uniform(paired=paired).search(problem)
    assert problem.within(solution.policy)
    every = brute_force(problem, paired)
    # More bits in both are taken to be no worse, so a dominated policy is not tried.
    front = [
        entry
        for entry in every
        if not any(
            v >= entry[1][0] and b >= entry[1][1] and (v, b) != entry[1] for _, (v, b), _ in every
        )
    ]
    assert solution.policy == max(front, key=lambda entry: entry[0])[2]
    assert problem.meter.policies == len(front)


def test_mixes_weight_and_activation_bits_where_that_is_better():
    problem = toy.make_problem(like=4, bits=BITS)
    pairs = {(p["blocks.0.conv1"].weight, p["blocks.0.conv1"].act) for p in (
        Uniform().candidates(problem)
    )}  # fmt: skip
    assert pairs == {(2, 8), (4, 4), (8, 2)}
    assert len(Uniform(paired=True).candidates(problem)) == 1


def test_paired_bits_leave_pinned_activations_alone():
    problem = toy.make_problem("size", like=4, bits=BITS)
    solution = Uniform(paired=True).search(problem)
    entry = solution.policy["blocks.0.conv1"]
    assert (entry.weight, entry.act) == (4, 8)


def test_is_what_the_budget_refers_to_at_whole_bits():
    problem = toy.make_problem(like=4, bits=BITS)
    assert Uniform(paired=True).search(problem).policy == problem.space.reference(4, 4)


def test_an_inhomogeneous_space_is_met_at_the_nearest_candidates():
    groups = [("blocks.0.conv1", "blocks.0.conv2")]
    problem = toy.make_problem(like=3, bits=(2, 4, 6, 8), paired=True, groups=groups)
    policy = Uniform().search(problem).policy
    problem.space.validate(policy)
    assert problem.within(policy)


class Alternating(SeparableTarget):
    """Two weight bits are cheapest in every other layer, eight in those between."""

    name = "alternating"
    kind = "model"
    metrics: ClassVar[Mapping[str, str]] = {"units": ""}
    monotone = False

    def layer_cost(self, layer, bits):
        return {"units": abs(bits.weight - (2, 8)[layer.index % 2])}


def test_where_no_uniform_policy_fits_the_cheapest_remains_and_it_is_said():
    problem = toy.make_problem(Alternating(), budget=BudgetSpec(limit=6), bits=BITS)
    assert Uniform().candidates(problem) == []
    solution = Uniform().search(problem)
    assert [solution.policy[x.name].weight for x in problem.layers] == [8, 8, 2, 8, 2, 8]
    assert problem.cost(solution.policy)["units"] == 6
    # Activations cost nothing here: of equally cheap policies it is the one of most bits.
    assert {solution.policy[x.name].act for x in problem.layers} == {8}
    assert "no uniform policy fits the budget" in solution.notes["remark"]
    assert Uniform().search(toy.make_problem()).notes == {}


class Coarse(SeparableTarget):
    """As a processor that stores 2 and 4 bits in bytes of 8 and runs them no faster."""

    name = "coarse"
    kind = "model"
    metrics: ClassVar[Mapping[str, str]] = {"time": "ms"}
    monotone = False

    def layer_cost(self, layer, bits):
        return {"time": 3.0 + 0.1 * layer.index}


def test_of_uniform_policies_of_equal_cost_the_one_of_most_bits_is_taken():
    problem = toy.make_problem(Coarse(), budget=BudgetSpec(like=2), bits=BITS)
    solution = Uniform().search(problem)
    assert solution.policy == problem.space.highest()
    assert problem.meter.policies == 1
    assert solution.notes == {}
