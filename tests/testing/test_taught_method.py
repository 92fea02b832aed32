"""A method with a teacher, loader and mixup of its own, held against all that a method must keep."""

import dataclasses
import importlib.util
import sys
from pathlib import Path

import pytest
import torch

from frameworks import DataForbidden, measure, registry
from frameworks.testing import FrameworkContract, toy


@pytest.fixture(scope="module")
def taught():
    """The plugin's class; it is registered for these tests alone."""
    registry.names()
    with pytest.MonkeyPatch.context() as patch:
        for held in ("_entries", "_origins"):
            patch.setattr(registry, held, dict(getattr(registry, held)))
        spec = importlib.util.spec_from_file_location("taught", Path(__file__).parent / "taught.py")
        module = importlib.util.module_from_spec(spec)
        patch.setitem(sys.modules, "taught", module)
        spec.loader.exec_module(module)
        yield module.Taught
    assert "taught" not in registry.names()


class TestContract(FrameworkContract):
    @pytest.fixture(autouse=True)
    def _framework(self, taught):
        self.framework = taught(rounds=1, tries=4)


@pytest.fixture(scope="module")
def found(taught):
    problem = toy.make_problem(like=2.5, needs=taught.card.needs)
    return problem, taught().search(problem)


def test_its_own_objective_improves(found):
    _, solution = found
    learning = solution.notes["learning"]
    assert learning["improved"]
    assert learning["end"] < 0.7 * learning["start"]
    assert solution.notes["climb"][-1] > solution.notes["climb"][0]


def test_what_it_trained_is_better_than_what_it_began_with(found):
    """By the labels of images that neither training nor climbing has seen."""
    problem, solution = found
    images = toy.split("unseen", 256)
    began, trained = problem.evaluator(), problem.evaluator(solution.weights)
    lowest = measure(began.apply(problem.cheapest()), images).accuracy
    assert measure(trained.apply(solution.policy), images).accuracy > lowest + 5


def test_every_image_is_counted(taught):
    """Of the network, of its teacher, of every evaluation and of what comes with them."""
    problem = toy.make_problem(needs=taught.card.needs)
    method = taught(rounds=1, tries=0)
    method.search(problem)
    trained, ranges, correction, valid = 4 * 64, 64, 64, 128
    # The network starts from ranges and a correction by the float one; the evaluator from its own.
    first = ranges + 2 * correction + 2 * trained
    assert problem.meter.images_backward == trained
    assert problem.meter.images_forward == first + ranges + correction + valid


def test_it_never_reads_a_labelled_training_image(taught):
    problem = toy.make_problem(needs=taught.card.needs)
    with pytest.raises(DataForbidden):
        _ = problem.train
    solution = taught(rounds=1, tries=1).search(problem)
    tuned = taught().finish(problem, solution)
    assert tuned.policy == solution.policy
    start = problem.quantized().free(solution.policy)
    assert not torch.equal(tuned.qlayer("fc").inner.weight, start.qlayer("fc").inner.weight)


def test_it_repeats(taught, found):
    problem, solution = found
    again = dataclasses.replace(taught()).search(problem.at())
    assert again.policy == solution.policy
    assert again.notes == solution.notes
    assert all(torch.equal(again.weights[name], x) for name, x in solution.weights.items())
