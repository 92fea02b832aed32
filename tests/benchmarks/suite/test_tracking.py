import ast
import json
import struct
import sys
import types
import warnings
from pathlib import Path

import pytest

import benchmarks
from benchmarks.records.record import Record
from benchmarks.suite.tracking import NoTracker, make_tracker


def test_wandb_is_imported_in_one_place_and_only_when_tracking_is_on():
    """timm imports an installed wandb by itself; our own code must not."""
    root = Path(benchmarks.__file__).parents[1]
    places = []
    for path in [*root.glob("benchmarks/**/*.py"), *root.glob("frameworks/**/*.py")]:
        tree = ast.parse(path.read_text())
        top = {id(node) for node in tree.body}
        for node in ast.walk(tree):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            if any(name.split(".")[0] == "wandb" for name in names):
                places.append((path.name, id(node) in top))
    assert places == [("tracking.py", False)]


def test_trackers_by_name():
    assert isinstance(make_tracker({"name": "none"}, "x"), NoTracker)
    with pytest.raises(ValueError, match="choose from"):
        make_tracker({"name": "magic"}, "x")


def made(key="0123456789abcdef0123", status="done", **fields):
    cell = {axis: {"name": axis} for axis in ("framework", "model", "dataset", "hardware")}
    cell |= {"protocol": {"name": "ptq"}, "budget": {"like": 4.0}, "seed": 3}
    record = Record(key=key, cell=cell, status=status, card={"title": "T"}, **fields)
    if status == "done":
        record.policy = {"conv": {"weight": [2, 4], "act": 8}, "fc": {"weight": 8, "act": 8}}
        record.accuracy = {"float": 92.0, "ptq": 90.0, "fine_tuned": None, "final": 90.0}
        record.costs = {"size": 12.0}
        record.search = {"policies": 3, "scoring": {"policies": 1}}
        record.curve = [
            {"policies": p, "images": 100 * p, "seconds": p / 2, "objective": 80.0 + p}
            for p in (1, 2, 3)
        ]
    return record


def config(folder, **changes):
    return {"name": "wandb", "project": "p", "mode": "offline", "folder": str(folder), **changes}


def logged(path):
    """The records in a file of W&B's: pieces with a header of 7 bytes in blocks of 32 KiB."""
    from wandb.proto import wandb_internal_pb2

    data, at, whole = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if (left := 32768 - at % 32768) < 7:
            at += left
            continue
        _, size, kind = struct.unpack("<IHB", data[at : at + 7])
        whole, at = whole + data[at + 7 : at + 7 + size], at + 7 + size
        if kind in (1, 4):
            found = wandb_internal_pb2.Record()
            found.ParseFromString(whole)
            yield found
            whole = b""


def of_kind(path, kind):
    return [getattr(r, kind) for r in logged(path) if r.WhichOneof("record_type") == kind]


def values(items):
    return {i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in items}


@pytest.mark.slow
def test_an_offline_run_a_cell_with_everything_and_never_two(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_API_KEY", "")
    tracker = make_tracker(config(tmp_path), "my suite/1")
    tracker.record(made(status="failed", error="it broke"))
    (tmp_path / "juxtaposition.txt").write_text("a table")
    for _ in range(2):  # a cell that is computed again
        tracker.record(made())
        tracker.table(tmp_path)
    runs = sorted(path.name.partition("-0123")[0] for path in tmp_path.glob("wandb/offline-run-*"))
    assert len(runs) == 2
    (path,) = tmp_path.glob("wandb/offline-run-*-0123456789abcdef0123/run-*.wandb")
    (run,) = of_kind(path, "run")[:1]
    assert (run.run_id, run.project, run.run_group) == ("0123456789abcdef0123", "p", "my suite/1")
    settings = values(run.config.update)
    assert settings["framework"] == {"name": "framework"}
    assert (settings["seed"], settings["key"]) == (3, "0123456789abcdef0123")
    history = [values(h.item) for h in of_kind(path, "history")]
    curve = [h for h in history if "search/objective" in h]
    assert [(h["search/images"], h["search/objective"]) for h in curve] == [
        (100, 81.0), (200, 82.0), (300, 83.0),
    ]  # fmt: skip
    artifacts = {a.type: a for a in of_kind(path, "artifact")}
    assert artifacts["policy"].name == "policy-0123456789abcdef0123"
    files = {entry.path for entry in artifacts["policy"].manifest.contents}
    assert files == {"policy.json", "0123456789abcdef0123.json"}
    (table,) = path.parent.glob("files/media/table/policy_*.json")
    assert json.loads(table.read_text())["data"] == [["conv", "[2, 4]", 8], ["fc", "8", 8]]
    summary = {}
    for update in of_kind(path, "summary"):
        summary |= values(update.update)
    assert (summary["status"], summary["accuracy/final"]) == ("done", 90.0)
    assert "accuracy/fine_tuned" not in summary
    assert of_kind(path, "exit")[0].exit_code == 0
    (path,) = tmp_path.glob("wandb/offline-run-*-table-my-suite-1/run-*.wandb")
    assert [a.name for a in of_kind(path, "artifact")] == ["juxtaposition-my-suite-1"]


class Broken:
    """A wandb whose every run fails."""

    def __init__(self):
        self.tries = 0

    @staticmethod
    def Settings(**_):  # noqa: N802
        return None

    def init(self, **_):
        self.tries += 1
        raise ConnectionError("no route to host")


def test_a_mirror_that_fails_ends_no_sweep_and_is_left_off(tmp_path, monkeypatch):
    broken = Broken()
    monkeypatch.setitem(sys.modules, "wandb", broken)
    tracker = make_tracker(config(tmp_path), "x")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for _ in range(10):
            tracker.record(made())
        tracker.table(tmp_path)
    assert all("no route to host" in str(w.message) for w in said)
    assert broken.tries == 3
    assert [("no more is mirrored" in str(w.message)) for w in said] == [False, False, True]


def test_without_wandb_nothing_is_mirrored_and_it_is_said(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.warns(UserWarning, match="nothing is mirrored"):
        assert isinstance(make_tracker(config(tmp_path), "x"), NoTracker)


def test_nobody_is_asked_to_log_in(tmp_path, monkeypatch):
    asked = []
    fake = types.SimpleNamespace(login=lambda **given: asked.append(given) or False)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    with pytest.raises(ValueError, match=r"tracker\.mode = online: nobody is logged in"):
        make_tracker(config(tmp_path, mode="online"), "x")
    assert asked == [{"prompt": False}]
    with pytest.raises(ValueError, match=r"tracker\.mode: 'on'; choose from"):
        make_tracker(config(tmp_path, mode="on"), "x")
