from itertools import product

import pytest

from frameworks.baselines.exhaustive import Exhaustive
from frameworks.baselines.greedy import Greedy
from frameworks.baselines.random import Random
from frameworks.baselines.uniform import Uniform
from frameworks.core.budget import BudgetSpec
from frameworks.testing import toy


def small(target="size", like=3, **more):
    return toy.make_problem(target, like=like, **{"bits": (2, 4, 8), **more})


@pytest.mark.parametrize("like", [2, 3, 4])
def test_finds_the_optimum(like):
    problem = small(like=like)
    solution = Exhaustive().search(problem)
    judge = problem.at()
    best, within = None, 0
    for values in product((2, 4, 8), repeat=4):
        policy = judge.space.decode(values)
        if judge.cost(policy)["size"] <= judge.budget.limit * (1 + 1e-9):
            within += 1
            score = judge.evaluate(policy)
            if best is None or (score.accuracy, -score.loss) > best[0]:
                best = ((score.accuracy, -score.loss), policy)
    assert solution.policy == best[1]
    assert solution.notes == {"policies_within_budget": within}
    assert problem.meter.policies == within


def test_no_other_baseline_is_better():
    problem = small(like=3)
    judge = problem.at()

    def rank(method):
        score = judge.evaluate(method.search(problem.at()).policy)
        return score.accuracy, -score.loss

    optimum = rank(Exhaustive())
    for other in (Uniform(), Greedy(), Greedy(lazy=False), Random(evaluations=30)):
        assert rank(other) <= optimum


def test_a_large_space_is_skipped_with_its_size():
    problem = small("bops")
    assert problem.space.size == 3**8
    assert "6.56e+03 policies, more than exhaustive.limit = 4096" in Exhaustive().skip(problem)
    assert Exhaustive(limit=3**8).skip(problem) is None


def test_the_tightest_budget_leaves_the_lowest():
    problem = small(like=None, budget=BudgetSpec(like=2))
    assert Exhaustive().search(problem).policy == problem.space.lowest()
