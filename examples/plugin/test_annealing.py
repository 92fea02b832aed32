"""The contract of every method, and what is this method's own."""

import pytest
from annealing import Annealing

from frameworks.testing import FrameworkContract, toy


class TestAnnealing(FrameworkContract):
    framework = Annealing(evaluations=4)  # small hyper-parameters, so that it takes seconds


@pytest.fixture
def problem():
    return toy.make_problem("bops", like=3)


def test_a_repaired_policy_fits_and_leaves_no_room_for_another_bit(problem):
    rng, space = problem.rng("test"), problem.space
    policy = Annealing.repaired(problem, space.highest(), rng)
    assert problem.within(policy)
    values = space.encode(policy)
    for i, choice in enumerate(space.choices):
        for bits in (b for b in choice.bits if b > values[i]):
            more = space.decode([*values[:i], bits, *values[i + 1 :]])
            assert not problem.within(more)


def test_a_move_changes_one_decision(problem):
    policy = problem.space.lowest()
    moved = Annealing.moved(problem, policy, problem.rng("test"))
    pairs = zip(problem.space.encode(policy), problem.space.encode(moved), strict=True)
    assert sum(a != b for a, b in pairs) == 1


def test_it_evaluates_as_many_policies_as_it_says(problem):
    Annealing(evaluations=10).search(problem)
    assert problem.meter.read().policies == 10


def test_it_finds_the_best_policy_that_it_saw(problem):
    solution = Annealing(evaluations=30).search(problem)
    assert problem.evaluate(solution.policy).accuracy == solution.notes["accuracy"]
    accuracies = [checkpoint.objective for checkpoint in problem.checkpoints]
    assert accuracies == sorted(accuracies)


def test_temperatures_are_checked():
    with pytest.raises(ValueError, match="end = 3"):
        Annealing(end=3).validate()
