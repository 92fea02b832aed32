"""A sensitivity of one's own and the solvers, as a plugin's author would use them."""

import itertools
import math
from dataclasses import dataclass
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from frameworks import Card, Sensitivity, SensitivityFramework, assign, register, registry
from frameworks.core.budget import BudgetSpec
from frameworks.core.search.sensitivities import SOLVERS
from frameworks.testing import FrameworkContract, toy


def weight_noise(problem):
    """The energy of each tensor's quantization error, at each of its bits."""
    space, weight, act = problem.space, {}, {}
    for layer in space.free_layers:
        original = problem.network.get_submodule(layer.name).weight.detach()
        weight[layer.name] = {
            b: float(
                (problem.quantizer(layer.name, "weight", b)(original) - original).square().sum()
            )
            for b in space.weight_bits[layer.name]
        }
        seen = problem.observe().samples[layer.name]
        act[layer.name] = {
            b: layer.in_elements
            * float((problem.quantizer(layer.name, "act", b)(seen) - seen).square().mean())
            for b in space.act_bits[layer.name]
        }
    return Sensitivity(weight, act)


def every_policy(problem):
    for values in itertools.product(*(choice.bits for choice in problem.space.choices)):
        yield problem.space.decode(values)


def loss_of(problem, sensitivity):
    table = sensitivity.table(problem)
    return lambda p: math.fsum(table[n][b.weight, b.act] for n, b in p.items())


@pytest.mark.parametrize(
    "budget",
    [
        BudgetSpec(like=3),
        BudgetSpec(like=2.4, metric="size"),
        BudgetSpec(metrics={"size": {"like": 3}, "bops": {"like": 2.5}}),
    ],
)
def test_solvers_against_all_policies(budget):
    problem = toy.make_problem("bops", budget=budget, bits=(2, 4, 8))
    sensitivity = weight_noise(problem)
    loss = loss_of(problem, sensitivity)
    allowed = [p for p in every_policy(problem) if problem.within(p)]
    best = min(map(loss, allowed))
    assert loss(assign(problem, sensitivity)) == pytest.approx(best, rel=1e-9)
    greedy = assign(problem, sensitivity, "greedy")
    assert greedy in allowed
    assert loss(greedy) < sum(map(loss, allowed)) / len(allowed)
    if not problem.budget.others:
        found = assign(problem, sensitivity, "frontier")
        assert loss(found) == pytest.approx(best, rel=1e-9)


def test_the_frontier_has_one_cost():
    both = BudgetSpec(metrics={"size": {"like": 3}, "bops": {"like": 3}})
    problem = toy.make_problem("bops", budget=both)
    with pytest.raises(ValueError, match=r"frontier knows one cost.*choose exact or greedy"):
        assign(problem, weight_noise(problem), "frontier")


@pytest.mark.parametrize("solver", sorted(SOLVERS))
def test_tied_and_paired_layers(solver):
    groups = [("blocks.0.conv1", "blocks.0.conv2")]
    problem = toy.make_problem(paired=True, groups=groups)
    policy = assign(problem, weight_noise(problem), solver)
    problem.space.validate(policy)
    assert problem.within(policy)


@given(st.data())
def test_greedy_takes_the_step_of_least_harm_for_what_it_saves(data):
    """One layer after the other, where each has the same cost: the losses decide alone."""
    problem = toy.make_problem(toy.Valley(), budget=BudgetSpec(like=4, metric="size"), bits=(4, 8))
    names = [layer.name for layer in problem.space.free_layers]
    stored = {layer.name: layer.stored for layer in problem.layers}
    harm = {n: data.draw(st.floats(0, 1e3, allow_subnormal=False)) for n in names}
    weight = {n: {8: 0.0, 4: harm[n] * stored[n]} for n in names}
    act = {n: {8: 0.0, 4: 1e9} for n in names}
    limit = problem.cost(problem.space.highest())["size"] - 4 / 8 * min(stored[n] for n in names)
    tight = problem.at(
        budget=BudgetSpec(limit=limit, metric="size").resolve(problem.target, problem.space)
    )
    policy = assign(tight, Sensitivity(weight, act), "greedy")
    lowered = [n for n in names if policy[n].weight == 4]
    assert len(lowered) == 1
    assert harm[lowered[0]] == pytest.approx(min(harm.values()), rel=1e-6, abs=1e-6)


def test_what_is_missing_is_named():
    problem = toy.make_problem()
    whole = weight_noise(problem)
    name = problem.space.free_layers[0].name
    lacking = {**whole.weight, name: {8: 0.0}}
    with pytest.raises(ValueError, match=rf"weight\['{name}'\]\[2\] is None: give a finite number"):
        assign(problem, Sensitivity(lacking, whole.act))
    odd = {**whole.act, name: {b: math.nan for b in whole.act[name]}}
    with pytest.raises(ValueError, match=r"act\['.*'\]\[2\] is nan"):
        assign(problem, Sensitivity(whole.weight, odd))
    with pytest.raises(ValueError, match="solver: 'best'; choose from"):
        assign(problem, whole, "best")


class Noise(SensitivityFramework):
    """A complete method: what an author writes."""

    card: ClassVar[Card] = Card(
        title="Quantization noise of each tensor",
        year=2026,
        category="heuristic",
        quantizer="mse",
        granularity="layer",
        searches=("weight", "act"),
        needs=frozenset({"calibration", "separable_cost"}),
        venue="a test",
    )

    def sensitivity(self, problem):
        return weight_noise(problem)


@dataclass
class ExactNoise(Noise):
    name: ClassVar[str] = "test_exact_noise"
    solver: str = "exact"


@dataclass
class GreedyNoise(Noise):
    name: ClassVar[str] = "test_greedy_noise"
    solver: str = "greedy"


@pytest.fixture(scope="module", autouse=True)
def _registered():
    """For this file only: other tests go through all frameworks that there are."""
    registry.names()
    patch = pytest.MonkeyPatch()
    for part in ("_entries", "_origins"):
        patch.setattr(registry, part, dict(getattr(registry, part)))
    register(ExactNoise), register(GreedyNoise)
    yield
    patch.undo()


class TestExactNoise(FrameworkContract):
    framework = ExactNoise()


class TestGreedyNoise(FrameworkContract):
    framework = GreedyNoise()


def test_an_unknown_solver_is_refused_before_any_work():
    with pytest.raises(ValueError, match="solver = 'x': choose from"):
        ExactNoise(solver="x").validate()
