"""A method with a teacher, loader and mixup of its own, against all that a method must keep."""

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
    learning = found[1].notes["learning"]
    assert learning["improved"]
    assert learning["end"] < 0.8 * learning["start"]


def test_what_it_found_is_better_than_what_it_began_with(found):
    """By the labels of images that neither training nor climbing has seen."""
    problem, solution = found
    images, began = toy.split("unseen", 256), problem.evaluator()
    lowest = measure(began.apply(problem.cheapest()), images).accuracy
    trained = problem.evaluator(solution.weights).apply(solution.policy)
    assert measure(trained, images).accuracy > lowest + 2


def test_every_image_is_counted(taught):
    """Of the network, of its teacher, of the evaluation and of what comes with them."""
    problem = toy.make_problem(needs=taught.card.needs)
    taught(rounds=1, tries=0).search(problem)
    trained, calibration, valid = 4 * 64, 64, 128
    assert problem.meter.images_backward == trained
    tuning = 3 * calibration  # ranges, and the correction by the float network
    tuning += 3 * trained  # the network, its teacher, BatchNorm's statistics
    judging = 2 * calibration + valid  # over the trained weights BatchNorm is re-estimated
    assert problem.meter.images_forward == tuning + judging


def test_it_never_reads_a_labelled_training_image(taught, found):
    with pytest.raises(DataForbidden):
        _ = found[0].train
    assert found[1].weights is not None


def test_its_own_training_is_another_than_the_protocols(taught, found):
    judge, solution = toy.make_problem(retrains=True), found[1]
    own, plain = taught().finish(judge, solution), judge.fine_tune(solution.policy)
    assert own.policy == plain.policy == solution.policy
    assert not torch.equal(own.qlayer("fc").inner.weight, plain.qlayer("fc").inner.weight)


def test_it_repeats(taught, found):
    problem, solution = found
    again = dataclasses.replace(taught()).search(problem.at())
    assert again.policy == solution.policy
    assert again.notes == solution.notes
    assert all(torch.equal(again.weights[name], x) for name, x in solution.weights.items())
