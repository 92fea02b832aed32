"""Faulty plugins: what they leave behind harms no other cell."""

import gc
import os
import random
import re
import sys
import threading
import warnings

import numpy as np
import pytest
import torch

from benchmarks.workers.isolation import _split_state
from benchmarks.workers.process import _SETTINGS
from frameworks import DatasetSplit, Framework, Room, Solution
from tests.benchmarks.workers import faulty
from tests.benchmarks.workers.faulty import Faulty, lowest, run, uniform

pytestmark = pytest.mark.usefixtures("faulty_plugins")


def zero_weights(problem):
    with torch.no_grad():
        for parameter in problem.network.parameters():
            parameter.zero_()
    return lowest(problem)


def another_network(problem):
    problem.network = problem.float_model()
    problem.network.conv1.weight.data.mul_(2)
    return lowest(problem)


def in_training_mode(problem):
    problem.network.train()
    return lowest(problem)


def frozen(problem):
    problem.network.conv1.weight.requires_grad_(False)
    return lowest(problem)


def patched(problem):
    problem.network.forward = lambda x: x
    return lowest(problem)


def hooked(problem):
    problem.network.register_forward_hook(lambda module, x, y: y * 0)
    return lowest(problem)


def fewer_strides(problem):
    problem.network.conv1.stride = (2, 2)
    return lowest(problem)


def black_images(problem):
    problem.train.x.data.zero_()
    return lowest(problem)


def through_numpy(problem):
    problem.train.x.numpy()[:] = 0
    return lowest(problem)


def other_labels(problem):
    problem.train.y = problem.train.y.flip(0)
    return lowest(problem)


def more_padding(problem):
    problem.train.pad += 4
    return lowest(problem)


def calibration_images(problem):
    problem.images.mul_(0)
    return lowest(problem)


def zeroed_then_raises(problem):
    problem.train.x.data.zero_()
    raise RuntimeError("after the harm")


HARM = {
    zero_weights: r"changed problem.network \(conv1.weight\), .* and \d+ more: take a copy",
    another_network: r"changed problem.network \(",
    in_training_mode: r"problem.network \(the module network\)",
    frozen: r"problem.network \(conv1.weight\)",
    patched: r"problem.network \(the module network\)",
    hooked: r"problem.network \(the module network\)",
    fewer_strides: r"problem.network \(the module conv1\)",
    black_images: "changed problem.train: take a copy",
    through_numpy: "changed problem.train",
    other_labels: "changed problem.train",
    more_padding: "changed problem.train",
    calibration_images: "changed problem.images",
    zeroed_then_raises: "after the harm",
}


QUICK = ("hooked", "black_images", "calibration_images", "zeroed_then_raises")
"""One of each kind; the others take a run of their own, too."""
HARMED = [
    pytest.param(
        *pair, id=pair[0].__name__, marks=[] if pair[0].__name__ in QUICK else pytest.mark.slow
    )
    for pair in HARM.items()
]


@pytest.mark.parametrize(("act", "message"), HARMED)
def test_what_a_search_does_to_network_and_data_harms_nobody_else(act, message):
    before = uniform()
    record = run(act)
    assert record.status == "failed"
    assert re.search(message, record.error), record.error
    assert faulty.__file__ in record.error
    after = uniform()
    assert (after.accuracy, after.policy, after.data) == (
        before.accuracy,
        before.policy,
        before.data,
    )


def test_harm_while_the_found_policy_is_trained_is_noticed(monkeypatch):
    def finish(self, problem, solution):
        trained = Framework.finish(self, problem, solution)
        zero_weights(problem)
        return trained

    before = uniform()
    monkeypatch.setattr(Faulty, "finish", finish, raising=False)
    paper = ["protocol=paper", "protocol.max_epochs=1", "protocol.max_images=60"]
    record = run(lowest, *paper)
    assert "finish) changed problem.network (conv1.weight)" in record.error
    assert uniform().accuracy == before.accuracy


def other_bits(problem, policy):
    return problem.quantized(policy.replace(list(policy)[1], weight=8))


def other_channels(problem, policy):
    name = list(policy)[1]
    count = problem.float_model().get_submodule(name).weight.shape[0]
    return problem.quantized(policy.replace(name, weight=(8, *(2,) * (count - 1))))


@pytest.mark.parametrize("finish", [other_bits, other_channels])
def test_a_training_at_other_bits_than_found_is_a_wrong_answer(monkeypatch, finish):
    """It would be recorded, and priced, as the policy that it is not."""
    monkeypatch.setattr(
        Faulty, "finish", lambda self, p, solution: finish(p, solution.policy), raising=False
    )
    record = run(lowest, "protocol=paper")
    assert record.status == "failed"
    assert re.search(r"finish\): the QModel has LayerBits\(.* in layer1\.0\.conv1", record.error)
    assert "train at solution.policy" in record.error


class Listed(torch.utils.data.Dataset):
    """Images on disk, in effect, with what torchvision's sets have."""

    def __init__(self):
        self.samples = [(f"{i}.png", i % 2) for i in range(8)]
        self.transform, self.reads = None, 0

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, i):
        self.reads += 1
        return torch.zeros(3, 4, 4), self.samples[i][1]


def on_disk():
    generator = torch.Generator().manual_seed(0)
    split = DatasetSplit(Listed(), name="listed", room=Room(2**20))  # it keeps what it has read
    return split.halves(0.5, generator)[0].subset(3, generator)


@pytest.mark.parametrize(
    "act",
    [
        lambda split: split.dataset.indices.reverse(),
        lambda split: split.dataset.dataset.indices.reverse(),
        lambda split: setattr(split.dataset.dataset.dataset, "transform", abs),
        lambda split: split.dataset.dataset.dataset.samples.reverse(),
        lambda split: setattr(split, "dataset", Listed()),
    ],
)
def test_what_is_done_to_data_on_disk_is_noticed(act):
    split = on_disk()
    before = _split_state(split)
    split.images()
    assert split._kept is not None
    assert _split_state(split) == before
    act(split)
    assert _split_state(split) != before


def test_a_training_that_returns_no_network_is_a_wrong_answer(monkeypatch):
    monkeypatch.setattr(Faulty, "finish", lambda self, problem, solution: None, raising=False)
    record = run(lowest, "protocol=paper")
    assert "finish): returned None: give the trained QModel" in record.error


NUMBERS = {
    "dtype": lambda: torch.set_default_dtype(torch.float64),
    "gradient mode": lambda: torch.set_grad_enabled(False),
    "deterministic mode": lambda: torch.use_deterministic_algorithms(True),
    "threads": lambda: torch.set_num_threads(3),
    "matmul precision": lambda: torch.set_float32_matmul_precision("medium"),
    "autocast": lambda: torch.set_autocast_enabled("cpu", True),
    "denormals": lambda: torch.set_flush_denormal(True),
    "cuDNN": lambda: setattr(torch.backends.cudnn, "benchmark", True),
    "device": lambda: torch.set_default_device("meta"),
    "kernels of the CPU": lambda: torch.backends.mkldnn.set_flags(False),
    "torch's kernels": lambda: torch.backends.mha.set_fastpath_enabled(False),
}


def doing(change):
    def act(problem):
        solution = lowest(problem)
        change()
        return solution

    return act


@pytest.mark.parametrize(("name", "change"), NUMBERS.items(), ids=NUMBERS)
def test_a_setting_that_changes_numbers_is_put_back_and_fails_the_cell(name, change):
    run(lowest)  # what libraries set when they are first used is there from now on
    before = [s.read() for s in _SETTINGS]
    record = run(doing(change))
    assert record.status == "failed"
    assert name in record.error.splitlines()[-1]
    assert "put it back" in record.error
    assert [s.read() for s in _SETTINGS] == before


def to_root():
    os.chdir("/")


SAID = {
    "the working folder": to_root,
    "environment variables": lambda: os.environ.update(JUXTABIT_KERNELS="plain"),
    "the mask of new files": lambda: os.umask(0o777),
    "garbage collection": gc.disable,
    "the standard streams": lambda: setattr(sys, "stdin", None),
}


@pytest.mark.parametrize(("name", "change"), SAID.items(), ids=SAID)
def test_other_settings_are_put_back_and_noted(name, change):
    before = [s.read() for s in _SETTINGS]
    record = run(doing(change))
    assert record.status == "done", record.error
    assert record.notes["left_behind"] == [f"{name} put back"]
    assert [s.read() for s in _SETTINGS] == before


def test_a_library_that_is_first_needed_by_a_plugin_is_no_fault_of_its(monkeypatch):
    """As torch sets its cache's folder when the first optimizer is made."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/before")
    record = run(doing(lambda: os.environ.update(TORCHINDUCTOR_CACHE_DIR="/somewhere")))
    assert record.status == "done", record.error
    assert "left_behind" not in record.notes
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == "/somewhere"


def legacy():
    return np.random.get_state()[1].tolist()  # noqa: NPY002


def test_generators_filters_and_limits_are_put_back_in_silence():
    states = torch.get_rng_state(), random.getstate(), legacy()
    before = sys.getrecursionlimit(), list(warnings.filters), np.geterr()

    def change():
        torch.rand(3), random.random(), torch.manual_seed(5)
        np.random.seed(3)  # noqa: NPY002
        sys.setrecursionlimit(5000)
        warnings.simplefilter("error")
        np.seterr(all="raise")

    record = run(doing(change))
    assert record.status == "done", record.error
    assert "left_behind" not in record.notes
    assert (sys.getrecursionlimit(), list(warnings.filters), np.geterr()) == before
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (random.getstate(), legacy()) == states[1:]


def test_a_search_that_draws_from_global_generators_depends_on_its_seed_alone():
    def draw(problem):
        return Solution(problem.space.lowest(), notes={"x": torch.rand(2), "y": random.random()})

    first = run(draw).notes
    torch.rand(5)
    random.random()
    assert run(draw).notes == first
    assert run(draw, "seed=1").notes != first


def test_a_thread_that_goes_on_is_noted():
    stop = threading.Event()

    def act(problem):
        threading.Thread(target=stop.wait, name="helper").start()
        return lowest(problem)

    record = run(act)
    stop.set()
    assert record.notes["left_behind"] == ["the thread helper goes on"]
