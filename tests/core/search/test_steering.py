import copy
import math
from dataclasses import dataclass, field
from typing import ClassVar

import pytest

from frameworks.core.budget import Budget
from frameworks.core.card import Card
from frameworks.core.framework import Framework
from frameworks.core.policy import Policy
from frameworks.core.search.steering import CHANCE, GROWTH, Trial, next_strength, outputs, steer
from frameworks.core.solution import Solution
from frameworks.testing import toy

CARD = Card(
    title="Stub", year=2020, category="baseline", quantizer="mse", granularity="layer",
    searches=("weight",), needs=frozenset({"calibration"}),
)  # fmt: skip


@dataclass
class Stub(Framework):
    """Lowers more layers to two bits the stronger the penalty: layer i at strength 2^i or more."""

    name: ClassVar[str] = "stub"
    card: ClassVar[Card] = CARD
    strength: ClassVar[str] = "penalty"

    penalty: float = 1.0
    seen: list = field(default_factory=list)

    def search(self, problem):
        self.seen.append(self.penalty)
        problem.meter.policies += 1
        values = [
            choice.bits[0] if self.penalty >= 2.0**i else choice.bits[-1]
            for i, choice in enumerate(problem.space.choices)
        ]
        return Solution(problem.space.decode(values), notes={"mine": self.penalty})


def toy_problem(limit, **fields):
    problem = toy.make_problem("size", bits=(2, 8), **fields)
    return problem.at(budget=Budget("size", limit, "bytes"))


@pytest.fixture
def costs():
    """Cost of the stub's policy for every number of lowered layers."""
    problem = toy_problem(1e9)
    count = len(problem.space.choices)
    assert count == 4
    values = [[2] * n + [8] * (count - n) for n in range(count + 1)]
    return [problem.cost(problem.space.decode(v))["size"] for v in values]


def test_costs_of_the_stub(costs):
    assert costs == sorted(costs, reverse=True)
    assert len(set(costs)) == 5


def test_methods_with_a_hard_limit_search_once(costs):
    @dataclass
    class Hard(Stub):
        strength: ClassVar[None] = None

    problem, stub = toy_problem(costs[4]), Hard()
    solution = steer(stub, problem)
    assert stub.seen == [1.0]
    assert solution.notes == {"mine": 1.0}


def test_close_enough_ends_at_once(costs):
    problem, stub = toy_problem(costs[1] / 0.98), Stub()
    solution = steer(stub, problem)
    assert stub.seen == [1.0]
    assert solution.notes["steering"] == [
        {"strength": 1.0, "cost": costs[1], "within": True}
        | {"cross_entropy": None, "collapsed": False}
    ]


def test_strength_grows_until_the_budget_is_met_then_bisects(costs):
    problem, stub = toy_problem(costs[3] * 1.001), Stub()
    solution = steer(stub, problem)
    # One layer lowered, then two, then three (4 is 2^2): within the budget and close to it.
    assert GROWTH == 2
    assert stub.seen == pytest.approx([1, 2, 4])
    assert problem.cost(solution.policy)["size"] == costs[3]
    stub = Stub(1.5)
    limit = (costs[1] + costs[2]) / 2
    steer(stub, toy_problem(limit), max_runs=5)
    # 1.5: one, 3: two; then, by middles in the logarithm, 2.12: two, 1.84: one, 1.97.
    upper = math.sqrt(1.5 * 3)
    lower = math.sqrt(1.5 * upper)
    assert stub.seen == pytest.approx([1.5, 3, upper, lower, math.sqrt(lower * upper)])


def test_strength_shrinks_while_there_is_room(costs):
    problem, stub = toy_problem(costs[1] * 1.001), Stub(20.0)
    solution = steer(stub, problem)
    # 20: four, 10: four, 5: three, 2.5: two, 1.25: one.
    assert stub.seen == pytest.approx([20, 10, 5, 2.5, 1.25])
    assert problem.cost(solution.policy)["size"] == costs[1]
    assert [trial["within"] for trial in solution.notes["steering"]] == [True] * 5


def test_the_run_that_uses_the_budget_best_is_kept(costs):
    limit = (costs[1] + costs[2]) / 2
    problem, stub = toy_problem(limit), Stub(1.0)
    solution = steer(stub, problem, max_runs=5)
    # 1 is over, 2 (two layers) within; then between 1 and 2 nothing fits better.
    assert stub.seen == pytest.approx([1, 2, 2**0.5, 2**0.75, 2**0.875])
    assert problem.cost(solution.policy)["size"] == costs[2]
    assert problem.within(solution.policy)
    assert solution.notes["mine"] == pytest.approx(2.0)
    assert [t["within"] for t in solution.notes["steering"]] == [False, True, False, False, False]
    assert "collapsed" not in solution.notes


def test_the_cheapest_run_is_kept_if_none_is_within(costs):
    problem = toy_problem(costs[4] / 2)
    solution = steer(Stub(2.0), problem, max_runs=3)
    assert not problem.within(solution.policy)
    assert problem.cost(solution.policy)["size"] == costs[4]
    assert [trial["strength"] for trial in solution.notes["steering"]] == pytest.approx([2, 4, 8])


@pytest.mark.parametrize("runs", [1, 2, 6])
def test_runs_are_bounded_and_all_are_search_cost(costs, runs):
    problem, heard = toy_problem(costs[2] * 0.999), []
    problem.progress = lambda done, total, text: heard.append((done, total, text))
    stub = Stub(0.01)
    steer(stub, problem, max_runs=runs)
    assert len(stub.seen) == problem.meter.policies == len(heard) <= runs
    assert heard[0] == (0, runs, "penalty=0.01")
    assert [done for done, _, _ in heard] == list(range(len(heard)))


def test_close_belongs_to_the_framework(costs):
    @dataclass
    class Content(Stub):
        close: ClassVar[float] = 0.1

    limit = costs[1] * 2
    stub, content = Stub(1.0), Content(1.0)
    steer(stub, toy_problem(limit))
    steer(content, toy_problem(limit))
    assert content.seen == [1.0]
    assert len(stub.seen) > 1


def test_the_framework_itself_is_not_changed(costs):
    stub = Stub(1.0)
    steer(stub, toy_problem(costs[4]))
    assert stub.penalty == 1.0


@pytest.mark.parametrize("strength", [0, -1, math.nan])
def test_the_strength_must_be_positive(strength):
    with pytest.raises(ValueError, match=r"stub\.penalty = .* must be positive"):
        steer(Stub(strength), toy_problem(1e9))


def test_any_budget_is_met_that_the_method_can_meet(costs):
    for start in (1e-3, 0.3, 1.0, 7.0, 300.0):
        for limit in (costs[4], costs[3], costs[2] * 1.01, costs[1]):
            problem = toy_problem(limit)
            solution = steer(Stub(start), problem, max_runs=16)
            assert problem.within(solution.policy), (start, limit)
            assert isinstance(solution.policy, Policy)


@dataclass
class Scripted(Framework):
    """Policies that cost given shares of the budget, run by run, and their cross-entropies."""

    name: ClassVar[str] = "scripted"
    card: ClassVar[Card] = CARD
    strength: ClassVar[str] = "penalty"

    penalty: float = 1.0
    costs: tuple = ()
    losses: tuple = ()
    seen: list = field(default_factory=list)

    def search(self, problem):
        run = len(self.seen)
        self.seen.append(self.penalty)
        # The policy only carries the number of its run; `scripted` says what that costs.
        digits = zip(problem.space.choices, f"{run:04b}", strict=True)
        values = [choice.bits[int(digit)] for choice, digit in digits]
        loss = self.losses[run] if self.losses else None
        return Solution(problem.space.decode(values), notes={"run": run}, cross_entropy=loss)


def scripted(costs, losses=(), runs=None, start=1.0):
    """Steer a `Scripted` search with a budget of 1; the stub and the solution."""
    problem = toy_problem(1.0)
    stub = Scripted(start, tuple(costs), tuple(losses))

    def cost(policy):
        bits = [policy[choice.layers[0]].weight == choice.bits[1] for choice in space.choices]
        return {"size": costs[int("".join(str(int(b)) for b in bits), 2)]}

    space = problem.space
    problem.cost = cost
    problem.within = lambda policy: cost(policy)["size"] <= 1
    return stub, steer(stub, problem, runs or len(costs))


GUESSING = math.log(toy.CLASSES)


def test_a_collapsed_run_is_not_returned_however_well_it_fits():
    losses = (0.4, 0.5, 0.6, GUESSING)
    stub, solution = scripted((1.06, 1.01, 1.1, 0.05), losses)
    assert solution.notes["run"] == 1  # the cheapest of those that are sound
    assert solution.notes["collapsed"] is True  # as no other met the budget
    # The third was stronger and cost more: the fourth is between it and the second.
    assert stub.seen == pytest.approx([1, 2, 4, math.sqrt(8)])
    assert [t["collapsed"] for t in solution.notes["steering"]] == [False] * 3 + [True]
    assert [t["cross_entropy"] for t in solution.notes["steering"]] == list(losses)
    # The same costs without a word of the loss: the one that fits.
    _, solution = scripted((1.06, 1.01, 1.1, 0.05))
    assert solution.notes["run"] == 3
    assert "collapsed" not in solution.notes


def test_among_sound_runs_the_rank_is_by_the_budget():
    _, solution = scripted((1.5, 0.6, 0.9, 0.99), (0.3, 0.3, 0.3, math.inf))
    assert solution.notes["run"] == 2
    assert "collapsed" not in solution.notes  # a sound run meets the budget, too


def test_a_collapsed_run_does_not_end_the_steering_and_calls_for_less_strength():
    stub, solution = scripted((1.5, 0.99, 1.2, 0.98), (0.3, 9.0, 0.3, 0.3))
    assert stub.seen == pytest.approx([1, 2, math.sqrt(2), 2**0.75])
    assert solution.notes["run"] == 3


def test_where_all_runs_collapsed_the_record_says_so():
    stub, solution = scripted((0.5, 0.6), (9.0, math.nan))
    assert stub.seen == pytest.approx([1, 0.5])
    assert solution.notes["run"] == 1
    assert solution.notes["collapsed"] is True


@pytest.mark.parametrize(("share", "collapsed"), [(0.749, False), (0.75, True)])
def test_a_network_has_collapsed_from_three_quarters_of_guessing(share, collapsed):
    _, solution = scripted((0.99,), (share * GUESSING,))
    assert solution.notes["steering"][0]["collapsed"] is collapsed
    assert solution.notes.get("collapsed", False) is collapsed
    assert CHANCE == 0.75


def test_classes_are_the_network_s_outputs_and_counting_them_is_free():
    problem = toy_problem(1.0)
    problem.network = copy.deepcopy(problem.network)  # the toy is shared by all tests
    problem.network.train()
    assert outputs(problem) == toy.CLASSES
    assert problem.meter.read().images_forward == 0
    assert problem.network.training


def trials(*runs):
    """(strength, cost) pairs; below 1 is within the budget, a negative cost has collapsed."""
    return [Trial(s, abs(c), abs(c) <= 1, 0.0, c < 0) for s, c in runs]


@pytest.mark.parametrize(
    ("runs", "expected"),
    [
        ([(1, 1.5)], 2),
        ([(1, 0.5)], 0.5),
        ([(1, -1.5)], 0.5),  # collapsed over the budget: less, not more
        ([(1, 1.5), (2, 0.5)], math.sqrt(2)),
        # Stronger and dearer, over the budget, within it and across it: what lies between.
        ([(1, 1.2), (2, 1.3)], math.sqrt(2)),
        ([(1, 0.5), (2, 0.6)], math.sqrt(2)),
        ([(1, 0.5), (2, 1.1)], math.sqrt(2)),
        # Looked at once; then on.
        ([(1, 1.2), (1.42, 1.25), (2, 1.3)], 4),
        ([(1, 0.5), (1.42, 0.55), (2, 0.6)], 0.5),
        # What a collapsed network's policy costs is no sign of a valley.
        ([(1, 1.1), (2, -1.2)], math.sqrt(2)),
        # Of two crossings the one at less strength.
        ([(1, 1.5), (1.5, 0.6), (2, 1.1), (4, 0.2)], math.sqrt(1.5)),
    ],
)  # fmt: skip
def test_next_strength(runs, expected):
    assert next_strength(trials(*runs)) == pytest.approx(expected)
    assert next_strength(trials(*reversed(runs))) == pytest.approx(expected)
