"""Evaluations that are looked up count as real ones do."""

import pytest

from frameworks import Score
from frameworks.baselines.random import Random
from frameworks.core.evaluation.tabled import TabledEvaluator, UnknownPolicy
from frameworks.core.networks.meter import Meter


@pytest.fixture
def problem(make_problem):
    return make_problem("size", like=3)


def scores_of(problem):
    """The scores of a policy are made from its bits."""

    class Scores(dict):
        def __missing__(self, policy):
            bits = sum(entry.weight for entry in policy.values())
            return Score(float(bits), 1.0 / bits)

    return Scores()


def test_a_search_over_a_table_counts_what_a_real_one_does(problem, make_problem):
    real = Random(evaluations=6, refill=False)
    real.search(problem)
    tabled = make_problem("size", like=3).at(known=scores_of(problem))
    real.search(tabled)
    looked_up, evaluated = tabled.meter.read(), problem.meter.read()
    assert looked_up.policies == evaluated.policies == 6
    # A real one begins with two passes over the calibration images: ranges and BatchNorm.
    once = 2 * len(problem.images)
    assert looked_up.images_forward == evaluated.images_forward - once > 0


def test_the_search_finds_what_the_table_says_is_best(problem):
    tabled = problem.at(known=scores_of(problem))
    found = Random(evaluations=20).search(tabled).policy
    assert tabled.evaluate(found).accuracy == max(
        tabled._evaluator._score(policy).accuracy for policy in tabled._evaluator._asked
    )


def test_a_policy_counts_once(problem):
    meter = Meter()
    policy, other = problem.space.lowest(), problem.space.highest()
    evaluator = TabledEvaluator({policy: Score(50.0, 1.0), other: Score(60.0, 1.0)}, 7, meter)
    assert evaluator.contend(policy, 55.0) is None
    assert evaluator(policy).accuracy == 50.0
    assert (meter.policies, meter.images_forward) == (1, 7)
    evaluator.settle(other)
    assert evaluator.measure(problem.valid).accuracy == 60.0
    assert (meter.policies, meter.images_forward) == (2, 14)


def test_what_is_not_there_is_said(problem):
    evaluator = TabledEvaluator({}, 1, Meter())
    with pytest.raises(UnknownPolicy, match="the table has no policy"):
        evaluator(problem.space.lowest())
    with pytest.raises(RuntimeError, match="no network"):
        evaluator.apply(problem.space.lowest())
