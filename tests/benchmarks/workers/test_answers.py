"""Faulty plugins: what they return is refused in one failed record that says what to do."""

import json
import re
import signal
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.records.record import Record
from benchmarks.records.store import Store, read_record
from benchmarks.suite.cell import compute
from benchmarks.suite.identity import key_of
from frameworks import Card, LayerBits, Point, Policy, Scores, Solution
from tests.benchmarks.workers import faulty
from tests.benchmarks.workers.faulty import (
    CARD,
    Faulty,
    FaultyScores,
    cell_with,
    lowest,
    noting,
    run,
)

pytestmark = pytest.mark.usefixtures("faulty_plugins")


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
    assert f"framework faulty ({faulty.__file__}, line " in with_message


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
    assert faulty.__file__ in record.error
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
    assert faulty.__file__ in record.error
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
