import math
from dataclasses import dataclass, field
from typing import ClassVar

import pytest

from frameworks import toy
from frameworks.core.budget import Budget
from frameworks.core.card import Card
from frameworks.core.framework import Framework
from frameworks.core.policy import Policy
from frameworks.core.solution import Solution
from frameworks.core.steering import GROWTH, steer

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
    assert solution.notes["steering"] == [{"strength": 1.0, "cost": costs[1], "within": True}]


def test_strength_grows_until_the_budget_is_met_then_bisects(costs):
    problem, stub = toy_problem(costs[3] * 1.001), Stub()
    solution = steer(stub, problem)
    # One layer lowered, then three (4 is 2^2): within the budget and close to it.
    assert stub.seen == pytest.approx([1.0, GROWTH])
    assert problem.cost(solution.policy)["size"] == costs[3]
    stub = Stub(0.9)
    steer(stub, toy_problem(costs[3] * 1.001))
    # 0.9: none, 3.6: two, 14.4: four; then the middle of 3.6 and 14.4 in the logarithm: three.
    assert stub.seen == pytest.approx([0.9, 3.6, 14.4, 7.2])


def test_strength_shrinks_while_there_is_room(costs):
    problem, stub = toy_problem(costs[1] * 1.001), Stub(20.0)
    solution = steer(stub, problem)
    # 20: four, 5: three, 1.25: one.
    assert stub.seen == pytest.approx([20, 5, 1.25])
    assert problem.cost(solution.policy)["size"] == costs[1]
    assert [trial["within"] for trial in solution.notes["steering"]] == [True] * 3


def test_the_run_that_uses_the_budget_best_is_kept(costs):
    limit = (costs[1] + costs[2]) / 2
    problem, stub = toy_problem(limit), Stub(1.0)
    solution = steer(stub, problem, max_runs=5)
    # 1 is over, 4 (three layers) within, 2 (two) within; then between 1 and 2 nothing fits better.
    assert stub.seen == pytest.approx([1, 4, 2, 2**0.5, 2**0.75])
    assert problem.cost(solution.policy)["size"] == costs[2]
    assert problem.within(solution.policy)
    assert solution.notes["mine"] == pytest.approx(2.0)
    assert [t["within"] for t in solution.notes["steering"]] == [False, True, True, False, False]


def test_the_cheapest_run_is_kept_if_none_is_within(costs):
    problem = toy_problem(costs[4] / 2)
    solution = steer(Stub(1.0), problem, max_runs=3)
    assert not problem.within(solution.policy)
    assert problem.cost(solution.policy)["size"] == costs[4]
    assert [trial["strength"] for trial in solution.notes["steering"]] == pytest.approx([1, 4, 16])


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
            solution = steer(Stub(start), problem, max_runs=10)
            assert problem.within(solution.policy), (start, limit)
            assert isinstance(solution.policy, Policy)
