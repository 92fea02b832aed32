"""Faulty plugins: each is one failed record that says what to do, and harms no other cell."""

import gc
import json
import os
import random
import re
import signal
import sys
import threading
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch

from benchmarks.records.record import Record
from benchmarks.records.store import Store, read_record
from benchmarks.suite import assets
from benchmarks.suite.cell import compute
from benchmarks.suite.config import cell_of, composed
from benchmarks.suite.identity import key_of
from benchmarks.workers.isolation import _split_state
from benchmarks.workers.process import _SETTINGS
from frameworks import (
    Card,
    DatasetSplit,
    Framework,
    LayerBits,
    Point,
    Policy,
    Room,
    Scores,
    ScoringFramework,
    Solution,
    registry,
)
from frameworks.core.registry import frameworks as names

FAST = [
    "dataset.pretrain.epochs=1",
    "protocol.valid_images=60",
    "protocol.calibration_images=60",
    "hardware=bops",
]
CARD = Card(
    title="Faulty", year=2026, category="heuristic", quantizer="mse", granularity="layer",
    searches=("weight",), needs=frozenset({"calibration", "train", "valid"}),
)  # fmt: skip


@dataclass
class Faulty(Framework):
    """Does what a test tells it to do."""

    name: ClassVar[str] = "faulty"
    card: ClassVar[Card] = CARD

    def search(self, problem):
        return Faulty.act(problem)


@dataclass
class FaultyScores(ScoringFramework):
    """The same with scores."""

    name: ClassVar[str] = "faulty_scores"
    card: ClassVar[Card] = CARD

    def score(self, problem):
        return FaultyScores.act(problem)

    def solve(self, problem, scores):
        return FaultyScores.answer(problem, scores)


@pytest.fixture(scope="module", autouse=True)
def _place(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUXTABIT_CACHE", str(tmp_path_factory.mktemp("cache")))
        registry.names()
        for cls in (Faulty, FaultyScores):
            names.add(cls.name, cls)
        yield
        for cls in (Faulty, FaultyScores):
            del names._entries[cls.name], names._origins[cls.name]
    assets.forget()


def cell_with(*overrides):
    return cell_of(composed([*FAST, *overrides]))


def run(act, *overrides):
    """The record of a search that does something."""
    Faulty.act = staticmethod(act)
    cell = cell_with("framework=faulty", *overrides)
    return compute(cell, key_of(cell))


def uniform():
    cell = cell_with()
    return compute(cell, key_of(cell))


def lowest(problem):
    return Solution(problem.space.lowest())


def noting(**notes):
    return lambda problem: Solution(problem.space.lowest(), notes=notes)


# --- what a search returns -----------------------------------------------------------------


def test_what_has_a_plain_meaning_is_noted_as_such():
    record = run(
        noting(
            number=np.float32(0.5),
            count=np.int64(3),
            flag=np.bool_(True),
            tensor=torch.tensor([[1, 2]]),
            scalar=torch.tensor(2.5),
            array=np.arange(2),
            pair=(1, "a"),
            by_layer={3: Path("x") / "y"},
            nothing=[float("nan"), None],
            half="\ud800",
        )
    )
    assert record.status == "done", record.error
    assert record.notes == {
        "number": 0.5, "count": 3, "flag": True, "tensor": [[1, 2]], "scalar": 2.5,
        "array": [0, 1], "pair": [1, "a"], "by_layer": {"3": "x/y"}, "nothing": [None, None],
        "half": "\\ud800",
    }  # fmt: skip
    json.dumps(record.to_json(), allow_nan=False)


class Evil(Exception):
    def __str__(self):
        raise SystemExit(0)

    __repr__ = __str__

    def __reduce__(self):
        raise TypeError("not to be pickled")


@dataclass
class Thing:
    a: int = 1


def looped():
    found = []
    found.append({"again": found})
    return found


def deep():
    found = []
    for _ in range(300):
        found = [found]
    return found


NOTES = {
    "a set": ({1, 2}, r"notes\['x'\] is a set: give sorted\(x\)"),
    "a dataclass": (Thing(), r"notes\['x'\] is a Thing: give dataclasses\.asdict\(x\)"),
    "bytes": (b"a", r"give x\.hex\(\)"),
    "a complex number": (np.complex64(1), "complex: give its parts"),
    "an object": (object(), "is a object: give numbers, text, lists or dicts"),
    "a large array": (np.zeros(20_000), r"array of shape \[20000\]: give a summary"),
    "dates": (np.zeros(2, dtype="datetime64[s]"), "datetime64.*: give numbers"),
    "tuple keys": ({(1, 2): 3}, r"notes\['x'\] has the key \(1, 2\): give text"),
    "equal keys": ({1: 2, "1": 3}, "two keys that are the same"),
    "a cycle": (looped(), r"notes\['x'\]\[0\]\['again'\] contains itself"),
    "depth": (deep(), "nested too deeply"),
    "a huge number": (10**5000, "too large a number"),
    "a method": (print, "is a builtin_function_or_method"),
}


@pytest.mark.parametrize(("value", "message"), NOTES.values(), ids=NOTES)
def test_a_note_without_a_plain_meaning_fails_its_cell_alone(value, message):
    record = run(noting(x=value))
    assert record.status == "failed"
    with_message = record.error.splitlines()[-1]
    assert re.search(message, with_message), with_message
    assert f"framework faulty ({__file__}, line " in with_message


def replaced(**fields):
    return lambda problem: Solution(**{"policy": problem.space.lowest(), **fields})


def first_weight(change):
    def act(problem):
        weights = problem.float_model().state_dict()
        return Solution(problem.space.lowest(), weights=change(weights, next(iter(weights))))

    return act


def tampered(weights, name):
    weights[name] = weights[name] * float("nan")
    return weights


def cut(weights, name):
    weights[name] = weights[name][:1]
    return weights


def point(**objectives):
    return lambda p: Solution(p.space.lowest(), front=(Point(p.space.lowest(), objectives),))


ANSWERS = {
    "None": (lambda p: None, "search.* returned None, not a Solution: give Solution"),
    "a dict": (lambda p: {"policy": 1}, "returned a dict, not a Solution"),
    "a policy": (lambda p: p.space.lowest(), "returned a Policy, not a Solution"),
    "the class": (lambda p: Solution, "returned a type, not a Solution"),
    "no policy": (replaced(policy=None), "policy is None: give Policy"),
    "a plain policy": (replaced(policy={"conv1": (8, 8)}), "policy is a dict: give Policy"),
    "one layer": (lambda p: Solution(Policy({"conv1": (8, 8)})), r"has the layers \['conv1'\]"),
    "no layer": (lambda p: Solution(Policy({})), r"has the layers \[\]"),
    "other bits": (
        lambda p: Solution(p.space.lowest().replace(p.space.names[1], weight=7)),
        "7 weight bits; allowed are",
    ),
    "no such bits": (
        lambda p: Solution(p.space.lowest().replace(p.space.names[1], weight=2.5)),
        "2.5 is not a bit width",
    ),
    "weights of another net": (first_weight(lambda w, n: {"x": w[n]}), "differ in .*state dict"),
    "weights that are no tensors": (
        first_weight(lambda w, n: {**w, n: [1.0]}), "weights.* is a list: give a tensor"
    ),
    "weights cut off": (first_weight(cut), r"weights\[.*is \[1, .*: give a tensor"),
    "weights that diverged": (first_weight(tampered), "is not finite"),
    "weights as a list": (replaced(weights=[1]), "weights is a list: give a state dict"),
    "images of another shape": (replaced(images=torch.zeros(4, 3, 2, 2)), "images has the shape"),
    "one image": (replaced(images=torch.zeros(8, 8)), "give a floating tensor"),
    "no image": (replaced(images=torch.zeros(0, 1, 8, 8)), "images has the shape"),
    "images as bytes": (
        replaced(images=torch.zeros(4, 1, 8, 8, dtype=torch.uint8)), "give a floating tensor"
    ),
    "images with nan": (replaced(images=torch.full((4, 1, 8, 8), float("nan"))), "not finite"),
    "a front of policies": (lambda p: Solution(p.space.lowest(), front=(p.space.lowest(),)),
                            r"front\[0\] is a Policy: give Point"),
    "a front that is none": (replaced(front=7), "front is a int: give a tuple of Point"),
    "an objective as text": (point(error="low"), r"objectives\['error'\] is a str: give a number"),
    "an infinite objective": (point(error=float("inf")), "is inf: leave such points out"),
    "notes as a list": (replaced(notes=[1]), "notes is a list: give a dict"),
    "a loss as text": (replaced(cross_entropy="low"), "cross_entropy is a str: give a number"),
    "a checkpoint that is none": (
        lambda p: p.checkpoint({"conv1": 8}) or lowest(p), "given to problem.checkpoint is a dict"
    ),
}  # fmt: skip


@pytest.mark.parametrize(("act", "message"), ANSWERS.values(), ids=ANSWERS)
def test_a_wrong_answer_is_a_failed_record_with_its_cure(act, message):
    record = run(act)
    assert record.status == "failed"
    assert re.search(message, record.error.splitlines()[-1]), record.error
    assert __file__ in record.error
    assert Record.from_json(json.loads(json.dumps(record.to_json()))) == record


def test_numpy_bits_and_objectives_are_numbers():
    def act(problem):
        bits = {n: LayerBits(np.int64(b.weight), np.int64(b.act))
                for n, b in problem.space.lowest().items()}  # fmt: skip
        front = (Point(Policy(bits), {"error": np.float64(1.5), "size": torch.tensor(2.0)}),)
        return Solution(Policy(bits), front=front)

    record = run(act)
    assert record.status == "done", record.error
    assert record.front[0]["objectives"] == {"error": 1.5, "size": 2.0}


def quits(code):
    def act(problem):
        raise SystemExit(code)

    return act


def recurses(problem):
    return recurses(problem)


def raises(error):
    def act(problem):
        raise error

    return act


ERRORS = {
    "sys.exit(0)": (quits(0), r"faulty .*called sys.exit\(0\): let it raise an error"),
    "sys.exit()": (quits(None), r"called sys.exit\(None\)"),
    "sys.exit(text)": (quits("no licence"), r"called sys.exit\('no licence'\)"),
    "an interrupt": (
        raises(KeyboardInterrupt()),
        "raised KeyboardInterrupt: let it raise an error",
    ),
    "the end of a generator": (raises(GeneratorExit()), "raised GeneratorExit"),
    "recursion": (recurses, "RecursionError"),
    "memory": (raises(MemoryError()), "MemoryError"),
    "an error that says nothing": (raises(Evil()), "exception str.. failed"),
    "an error with odd letters": (raises(ValueError("\ud800 \x00 \x1b[31m")), r"\\ud800"),
    "an endless error": (raises(ValueError("x" * 10**6)), "letters left out"),
}


@pytest.mark.parametrize(("act", "message"), ERRORS.values(), ids=ERRORS)
def test_whatever_a_search_raises_is_a_failed_record(act, message, tmp_path):
    record = run(act)
    assert record.status == "failed"
    assert re.search(message, record.error), record.error
    assert __file__ in record.error
    assert len(record.error) < 30_000
    Store(tmp_path).put(record)
    assert read_record(tmp_path / f"{record.key}.json") == record


def test_a_real_interrupt_ends_the_run():
    # What starts the tests in the background may have told them to ignore it.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            run(lambda problem: signal.raise_signal(signal.SIGINT))
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_reason_to_skip_is_text(monkeypatch):
    monkeypatch.setattr(Faulty, "skip", lambda self, problem: True, raising=False)
    record = run(lowest)
    assert record.status == "failed"
    assert "returned a bool: give the reason as text, or None" in record.error


def test_a_card_that_no_record_can_hold_is_said_so(monkeypatch):
    monkeypatch.setattr(Faulty, "card", Card(**{**vars(CARD), "year": "2026"}))
    record = run(lowest)
    assert record.status == "failed"
    assert "card.year is '2026', not an integer" in record.error
    assert Record.from_json(record.to_json()) == record


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"a": {1: 2}}, r"score\): values\['a'\] has the key 1: give text"),
        ({"a": {1, 2}}, r"values\['a'\] is a set: give sorted\(x\)"),
        (None, r"score.* returned a dict: give Scores"),
    ],
)
def test_scores_without_a_plain_meaning_are_kept_by_nobody(values, message, tmp_path):
    FaultyScores.act = staticmethod(lambda p: {} if values is None else Scores(values))
    FaultyScores.answer = staticmethod(lambda p, scores: lowest(p))
    cell = cell_with("framework=faulty_scores")
    record = compute(cell, key_of(cell), scores=tmp_path)
    assert record.status == "failed"
    assert re.search(message, record.error), record.error
    assert not list(tmp_path.glob("*.json"))


# --- what a search leaves behind -----------------------------------------------------------


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
    assert __file__ in record.error
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
