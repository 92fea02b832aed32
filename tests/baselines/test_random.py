import pytest

from frameworks import toy
from frameworks.baselines.random import Random
from frameworks.core.budget import BudgetSpec


@pytest.mark.parametrize(("target", "like"), [("bops", 2.5), ("size", 3), (toy.Peak(), 3)])
def test_is_the_best_of_its_own_draws(target, like):
    problem = toy.make_problem(target, like=like)
    solution = Random(evaluations=12).search(problem)
    judge, rng = problem.at(), problem.rng("random")
    draws = [Random().draw(judge, rng) for _ in range(12)]
    scores = [judge.evaluate(policy) for policy in draws]
    best = max(range(12), key=lambda i: (scores[i].accuracy, -scores[i].loss, -i))
    assert solution.policy == draws[best]
    assert problem.meter.policies == len(set(draws))


@pytest.mark.parametrize(("target", "like"), [("bops", 2.2), ("size", 2.5), (toy.Peak(), 4)])
def test_every_draw_is_within_and_uses_the_budget(target, like):
    problem = toy.make_problem(target, like=like)
    rng = problem.rng("test")
    for _ in range(30):
        policy = Random().draw(problem, rng)
        problem.space.validate(policy)
        assert problem.within(policy)
        values = list(problem.space.encode(policy))
        for i, choice in enumerate(problem.space.choices):
            for bits in choice.bits:
                if bits > values[i]:
                    raised = problem.space.decode([*values[:i], bits, *values[i + 1 :]])
                    assert not problem.within(raised), "one more step would still have fit"


def test_draws_meet_budgets_that_fewer_bits_do_not():
    problem = toy.make_problem(toy.Valley(), budget=BudgetSpec(like=4.5), bits=(2, 4, 8))
    assert not problem.within(problem.space.lowest())
    rng = problem.rng("test")
    draws = {Random().draw(problem, rng) for _ in range(30)}
    assert all(problem.within(policy) for policy in draws)
    assert len(draws) > 5


def test_draws_reach_every_candidate():
    problem = toy.make_problem(like=4)
    rng = problem.rng("test")
    draws = [problem.space.encode(Random().draw(problem, rng)) for _ in range(150)]
    for i, choice in enumerate(problem.space.choices):
        assert {draw[i] for draw in draws} == set(choice.bits)


def test_more_evaluations_extend_the_same_draws():
    few, many = toy.make_problem(), toy.make_problem()
    Random(evaluations=4).search(few)
    Random(evaluations=10).search(many)
    seen = [c.policy for c in many.checkpoints]
    assert [c.policy for c in few.checkpoints] == seen[: len(few.checkpoints)]
    objectives = [c.objective for c in many.checkpoints]
    assert objectives == sorted(objectives)


def test_seeds_differ():
    policies = {Random(evaluations=3).search(toy.make_problem(seed=s)).policy for s in range(4)}
    assert len(policies) > 1


def test_the_tightest_budget_leaves_one_policy():
    problem = toy.make_problem("size", like=2)
    assert Random(evaluations=3).search(problem).policy == problem.space.lowest()
    assert problem.meter.policies == 1


@pytest.mark.parametrize("evaluations", [0, -3])
def test_no_evaluations_are_refused(evaluations):
    with pytest.raises(ValueError, match=f"evaluations = {evaluations}"):
        Random(evaluations=evaluations)
