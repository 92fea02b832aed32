"""Odd records: each is named and left out, and the table is made of the others."""

import copy
import json
import os
import random
import socket
import sys

import pytest

from benchmarks.cli import main
from benchmarks.records import shapes
from benchmarks.records.record import CorruptRecord, Record
from benchmarks.records.store import Store, find_records, read_record
from benchmarks.report.table import build, showable

KEY = "k1"
GOOD = {
    "key": KEY,
    "cell": {
        "framework": {"name": "haq", "episodes": 3},
        "model": {"name": "resnet8", "options": {"depth": 2}},
        "dataset": {"name": "digits", "root": None},
        "hardware": {"name": "bops"},
        "protocol": {"name": "ptq", "weight_bits": [2, 4], "ties": [["a", "b"]]},
        "budget": {"like": 4.0, "ratio": None, "limit": None, "metric": "bops"},
        "seed": 0,
    },
    "status": "done",
    "card": {
        "title": "HAQ", "year": 2019, "category": "reinforcement", "quantizer": "kmeans",
        "granularity": "layer", "searches": ["weight", "act"], "needs": ["valid"],
        "hardware_aware": True, "arxiv": "1811.08886", "deviations": ["none"],
    },
    "reason": None,
    "error": None,
    "budget": {"metric": "bops", "limit": 1.5e6, "unit": "bit operations", "label": "like=4",
               "kind": "model", "within": True},
    "policy": {"conv": {"weight": [2, 4], "act": 8}, "fc": {"weight": 8, "act": 8}},
    "bits": {"weight": 3.0, "act": 8.0},
    "costs": {"bops": 1.25e6, "size": 100.0},
    "float_costs": {"bops": 3.2e7},
    "int8_costs": {"bops": 2e6},
    "accuracy": {"float": 91.0, "valid": 90.0, "ptq": 90.1, "fine_tuned": None, "final": 90.1},
    "search": {"policies": 3, "images_forward": 60, "images_backward": 0, "seconds": 0.5,
               "peak_memory": 2**28, "scoring": {"policies": 0, "seconds": 0.1}},
    "curve": [{"policies": 1, "images": 20, "seconds": 0.1, "objective": 89.0},
              {"policies": 3, "images": 60, "seconds": 0.5, "objective": 90.0}],
    "front": [{"policy": {"conv": {"weight": 2, "act": 8}}, "objectives": {"error": 9.9, "s": 9}},
              {"policy": {}, "objectives": {"error": 12.0, "s": 3}}],
    "notes": {"trace": [0.1, None], "by": {"conv": "x"}},
    "code": {"juxtabit": "0.1", "git": {"sha": "a", "dirty": False}},
    "data": {"dataset": "d", "checkpoint": "c"},
    "environment": {"torch": "2", "time": "2026-01-01T00:00:00Z", "threads": 1, "gpu": None},
    "timings": {"total": 1.0},
    "schema": 1,
}  # fmt: skip
DEEP = json.loads("[" * 400 + "]" * 400)
ODD = (
    None, True, False, -1, 0, 2.5, 1e300, -1e300, 5e-324, 10**400, float("nan"), float("inf"),
    -float("inf"), "", "x", "\ud800", "a\0b", "\x1b[31m", [], {}, [[]], ["x"], [None], {"a": 1},
    {"": None}, {"name": 3}, DEEP,
)  # fmt: skip


def paths(value, place=()):
    yield place
    pairs = value.items() if isinstance(value, dict) else ()
    for key, inner in pairs if isinstance(value, dict) else enumerate(value or ()):
        if isinstance(inner, dict | list):
            yield from paths(inner, (*place, key))
        else:
            yield (*place, key)


def changed(value, place, odd):
    if not place:
        return odd
    made = copy.copy(value)
    made[place[0]] = changed(value[place[0]], place[1:], odd)
    return made


MUTATIONS = [(place, odd) for place in paths(GOOD) for odd in range(len(ODD))]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["juxtabit"])
    other = copy.deepcopy(GOOD) | {"key": "other"}
    other["cell"]["framework"] = {"name": "uniform"}
    records = tmp_path / "results/x/records"
    Store(records).put(Record.from_json(other))
    return records


def test_the_record_that_is_changed_is_a_good_one(folder):
    (folder / f"{KEY}.json").write_text(json.dumps(GOOD))
    assert main(["table"]) == 0
    assert len(find_records(folder)) == 2
    assert len(MUTATIONS) > 3000


def check(folder, mutations):
    path = folder / f"{KEY}.json"
    for place, odd in mutations:
        path.write_text(json.dumps(changed(GOOD, place, ODD[odd])))
        faults = []
        found = find_records(folder, faults)
        assert "other" in {record.key for record in found}, (place, odd)
        assert len(found) + len(faults) == 2, (place, odd)
        assert all(str(path) in fault for fault in faults), (place, odd)
        table = build(found)
        shown = [*table.files().values(), table.summary()]
        assert all("uniform" in text.encode().decode() for text in shown if "haq" in text)
        assert "uniform" in shown[0], (place, odd)
        json.dumps([record.to_json() for record in found], allow_nan=False)


@pytest.mark.filterwarnings("ignore:left out")
def test_a_change_of_a_record_never_stops_a_table(folder):
    check(folder, random.Random(0).sample(MUTATIONS, 150))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:left out")
def test_no_change_of_a_record_stops_a_table(folder):
    check(folder, random.Random(1).sample(MUTATIONS, 1500))


def text_of(**changes):
    return json.dumps({**GOOD, **changes})


FILES = {
    "empty": (b"", "cannot be read"),
    "cut off": (text_of()[:300].encode(), "cannot be read"),
    "other bytes": (b"\xff\xfe" + text_of().encode("utf-16-le"), "cannot be read"),
    "a mark before it": (b"\xef\xbb\xbf" + text_of().encode(), "BOM"),
    "twice the same entry": (text_of()[:-1].encode() + b', "status": "done"}', "'status' is there"),
    "no end": (b"[" * 200_000, "nested too deeply"),
    "a number of many digits": (b'{"key": ' + b"9" * 10_000 + b"}", "cannot be read"),
    "another's key": (text_of(key="k2").encode(), "holds the record k2, not k1"),
    "an unknown entry": (text_of(more=1).encode(), r"unknown fields \['more'\]"),
    "a later schema": (text_of(schema=99).encode(), "schema 99, this version reads"),
    "schema true": (text_of(schema=True).encode(), "schema True, this version reads"),
}


@pytest.mark.parametrize(("content", "message"), FILES.values(), ids=FILES)
def test_a_file_that_is_no_record_is_named(folder, content, message, capsys):
    path = folder / f"{KEY}.json"
    path.write_bytes(content)
    with pytest.raises(CorruptRecord, match=message) as caught:
        read_record(path)
    assert str(path) in str(caught.value)
    assert main(["table"]) == 1
    shown = capsys.readouterr()
    assert f"left out a corrupt record: results/x/records/{KEY}.json" in shown.err
    assert "uniform" in shown.out


def pipe(path):
    os.mkfifo(path)


def door(path):
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(os.path.relpath(path))  # a socket's path must be short


def huge(path):
    with path.open("wb") as file:
        file.truncate(10**8)


SPECIAL = {
    "a pipe": (pipe, "not a regular file"),
    "a folder": (lambda path: path.mkdir(), "Is a directory"),
    "a socket": (door, "No such device"),
    "a link to nothing": (lambda path: path.symlink_to("nowhere"), "No such file"),
    "a link to itself": (lambda path: path.symlink_to(path.name), "symbolic links"),
    "a device": (lambda path: path.symlink_to("/dev/zero"), "not a regular file"),
    "a huge file": (huge, "100000000 bytes, more than"),
}


@pytest.mark.parametrize(("make", "message"), SPECIAL.values(), ids=SPECIAL)
def test_what_is_no_file_is_named_and_waited_for_by_nobody(folder, make, message, capsys):
    make(folder / f"{KEY}.json")
    assert main(["table"]) == 1
    shown = capsys.readouterr()
    assert f"records/{KEY}.json: cannot be read" in shown.err
    assert message in shown.err
    assert "uniform" in shown.out


def test_a_folder_of_nothing_but_odd_records_is_said_so(tmp_path, capsys):
    records = tmp_path / "records"
    records.mkdir()
    (records / "a.json").write_text("{")
    assert main(["table", str(tmp_path)]) == 2
    assert "none can be read" in capsys.readouterr().err


def test_a_record_that_no_table_can_show_is_named_by_the_last_guard(folder, capsys, monkeypatch):
    """One that passes the gate, as no test of it can think of everything."""
    monkeypatch.setitem(shapes.FIELDS, "accuracy", lambda value: None)
    odd = copy.deepcopy(GOOD)
    odd["accuracy"]["float"] = "91"
    (folder / f"{KEY}.json").write_text(json.dumps(odd))
    assert main(["table"]) == 1
    shown = capsys.readouterr()
    assert f"left out a record: {KEY}.json: no table can show it (TypeError" in shown.err
    assert "uniform" in shown.out
    assert "haq" not in shown.out


def test_the_last_guard_keeps_what_can_be_shown():
    record = Record.from_json(copy.deepcopy(GOOD))
    faults = []
    assert showable([record], faults) == [record]
    assert faults == []


def test_the_bit_widths_are_those_of_policies():
    from frameworks.core.policy import VALID_BITS

    assert set(shapes.BITS) == VALID_BITS


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("policy", "conv", "weight", 1), 9, r"policy\.conv\.weight\[1\] is 9, not a bit width"),
        (("policy", "fc", "act"), True, r"policy\.fc\.act is True, not a bit width"),
        (("policy", "fc"), {"weight": 8}, r"policy\.fc lacks act"),
        (("search", "policies"), -1, r"search\.policies is -1, not a number within 0\.\.1e\+30"),
        (("cell", "model", "name"), "a\0b", r"cell\.model\.name is 'a\\x00b': a name"),
        (("cell", "seed"), 1.5, r"cell\.seed is 1\.5, not an integer"),
        (("card", "searches"), "act", r"card\.searches is 'act', not a list"),
        (("notes", "trace", 0), float("nan"), r"notes\.trace\[0\] is nan, which no record"),
        (("curve", 0, "seconds"), None, r"curve\[0\]\.seconds is None, not a number"),
        (("budget", "within"), 1, r"budget\.within is 1, neither true nor false"),
        (("data", "dataset"), "\udc80", r"data\.dataset is '\\udc80': half a surrogate pair"),
    ],
)
def test_a_fault_is_named_with_its_place(place, value, message):
    with pytest.raises(CorruptRecord, match=message):
        Record.from_json(changed(copy.deepcopy(GOOD), place, value), "x.json")
