import statistics
from dataclasses import replace
from itertools import islice

import pytest

from frameworks.baselines.random import Random, RandomKernel, RandomPlain, RandomRetrained
from frameworks.core.budget import BudgetSpec
from frameworks.core.evaluation.evaluate import Score
from frameworks.reinforcement.autoq.framework import AutoQ
from frameworks.reinforcement.haq import HAQ
from frameworks.testing import toy

FORMS = (Random, RandomPlain, RandomRetrained, RandomKernel)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("target", "like"), [("bops", 2.4), ("size", 3), (toy.Peak(), 3)])
def test_is_the_best_of_its_own_draws(target, like, form):
    problem = toy.make_problem(target, like=like)
    solution = form(evaluations=12, repeats=50).search(problem)
    judge = problem.at()
    draws = list(dict.fromkeys(islice(form().draws(judge), solution.notes["draws"])))
    # Each layer meets a peak on its own, so that refilling whole layers always ends the same way.
    alone = target == toy.Peak() and form in (Random, RandomRetrained)
    assert len(draws) == (1 if alone else 12)
    scores = [judge.evaluate(policy) for policy in draws]
    best = max(range(len(draws)), key=lambda i: (scores[i].accuracy, -scores[i].loss, -i))
    assert solution.policy == draws[best]
    assert problem.meter.policies == solution.notes["distinct"] == len(draws)
    assert ("remark" in solution.notes) == (len(draws) < 12)


@pytest.mark.parametrize(("form", "count"), [(Random, 11), (RandomPlain, 30)])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_repeated_draws_are_replaced_until_there_are_n_distinct_policies(form, count, seed):
    """Of 11 and about 50 that there are, the last come after many repetitions."""
    problem = toy.make_problem("size", like=3, bits=(2, 3, 4, 8), seed=seed)
    solution = form(evaluations=count).search(problem)
    assert problem.meter.policies == solution.notes["distinct"] == count
    assert solution.notes["draws"] > count * 1.2, "otherwise this shows nothing"
    assert "remark" not in solution.notes


def test_a_space_with_fewer_policies_ends_the_search_and_is_said():
    problem = toy.make_problem("size", like=2)
    solution = Random(evaluations=3, repeats=25).search(problem)
    assert solution.policy == problem.space.lowest()
    assert problem.meter.policies == 1
    assert solution.notes["draws"] == 26
    assert solution.notes["remark"] == "1 distinct policies: 25 draws in a row brought no other"


def test_images_end_the_search_in_place_of_evaluations():
    whole = toy.make_problem()
    Random(evaluations=9).search(whole)
    images = whole.meter.images_forward + whole.meter.images_backward
    for more, count in ((0, 9), (1, 10), (-1, 9)):
        problem = toy.make_problem()
        Random(evaluations=2, images=images + more).search(problem)
        assert problem.meter.policies == count, "it ends with the evaluation that reaches them"


def test_images_backward_count_as_well():
    options = {"retrain_images": 64, "images": 6000}
    problem = toy.make_problem(retrains=True)
    RandomRetrained(**options).search(problem)
    spent = problem.meter.read()
    total = spent.images_forward + spent.images_backward
    assert spent.images_backward == 64 * spent.policies > 0
    assert 6000 <= total < 6000 + total / spent.policies


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


@pytest.mark.parametrize(
    ("options", "said"),
    [({"evaluations": 0}, "evaluations = 0"), ({"evaluations": -3}, "evaluations = -3"),
     ({"images": -1}, "images = -1"), ({"repeats": 0}, "repeats = 0")],
)  # fmt: skip
def test_no_evaluations_are_refused(options, said):
    with pytest.raises(ValueError, match=said):
        Random(**options)


def test_the_plain_form_spends_less_of_the_budget():
    problem = toy.make_problem("size", like=3)
    share = {
        form: statistics.mean(
            problem.cost(policy)["size"] / problem.budget.limit
            for _, policy in zip(range(40), form().draws(problem), strict=False)
        )
        for form in (Random, RandomPlain)
    }
    assert share[Random] > share[RandomPlain] + 0.02


# --- retraining ------------------------------------------------------------------------------


def asked(monkeypatch, problem):
    """The recipes that a search retrains with, one for each policy."""
    recipes = []
    evaluate = type(problem).evaluate

    def noted(self, policy, retrain=None):
        recipes.append(retrain)
        return evaluate(self, policy)

    monkeypatch.setattr(type(problem), "evaluate", noted)
    return recipes


@pytest.mark.parametrize(
    ("form", "agent"),
    [(RandomRetrained, HAQ(episodes=1, warmup=1)), (RandomKernel, AutoQ(explore=1, exploit=0))],
)
def test_retrains_as_haq_and_autoq_do(form, agent, monkeypatch):
    """The recipe is the one that the agent with the same settings asks for."""
    options = {"retrain_epochs": 2, "retrain_images": 96, "retrain_lr": 3e-3}
    problem = toy.make_problem(retrains=True)
    recipes = asked(monkeypatch, problem)
    form(evaluations=3, **options).search(problem)
    replace(agent, **options).search(problem)
    assert len(recipes) == 4
    assert recipes[0] is not None
    assert recipes[0] == recipes[1] == recipes[2] == recipes[3]


@pytest.mark.parametrize("form", [RandomRetrained, RandomKernel])
def test_retrains_only_where_the_protocol_does(form):
    for retrains, options, trained in (
        (True, {"retrain_images": 64}, True),
        (True, {"retrain_epochs": 0}, False),
        (False, {"retrain_images": 64}, False),
    ):
        problem = toy.make_problem(retrains=retrains)
        form(evaluations=2, **options).search(problem)
        assert (problem.meter.images_backward > 0) == trained


def test_the_best_is_that_after_retraining(monkeypatch):
    """Scores that only retraining gives decide, and not those without it."""
    problem = toy.make_problem(retrains=True)

    def score(self, policy, retrain=None):
        assert retrain is not None
        return Score(policy["blocks.0.conv1"].mean_weight, 0.0)

    monkeypatch.setattr(type(problem), "evaluate", score)
    form = RandomRetrained(evaluations=30, retrain_images=64)
    draws = list(islice(form.draws(problem), 30))
    bits = form.search(problem).policy["blocks.0.conv1"].weight
    assert bits == max(policy["blocks.0.conv1"].weight for policy in draws) > 4


# --- kernel by kernel ------------------------------------------------------------------------


def test_the_kernel_form_mixes_bits_within_layers():
    problem = toy.make_problem()
    solution = RandomKernel(evaluations=10).search(problem)
    assert any(isinstance(bits.weight, tuple) for bits in solution.policy.values())
    problem.space.validate(solution.policy)
    skipped = RandomKernel().skip(toy.make_problem(toy.Valley(), budget=BudgetSpec(like=4)))
    assert "per output channel" in skipped


# --- the claim -------------------------------------------------------------------------------


def additive(seed):
    """A problem whose loss is a sum over decisions, each step down costing four times more."""
    problem = toy.make_problem("bops", like=2.4, seed=seed)
    sizes = problem.rng("landscape").lognormal(0, 1, len(problem.space.choices))

    class Landscape:
        def contend(self, policy, least):
            values = problem.space.encode(policy)
            loss = sum(size * 4.0 ** (2 - b) for size, b in zip(sizes, values, strict=True))
            return Score(-loss, loss)

    problem.__dict__["_evaluator"] = Landscape()
    return problem


def losses(form, count, seeds=12):
    found = []
    for seed in range(seeds):
        problem = additive(seed)
        policy = form(evaluations=count).search(problem).policy
        found.append(problem._evaluator.contend(policy, None).loss)
    return found


def test_refilling_is_worth_more_than_four_times_the_evaluations():
    """Why a search that does not refill must be held against one that does not, either."""
    full, plain, longer = losses(Random, 32), losses(RandomPlain, 32), losses(RandomPlain, 128)
    assert statistics.mean(full) < statistics.mean(longer) < statistics.mean(plain)
    wins = sum(a < b for a, b in zip(full, plain, strict=True))
    assert wins >= 10
