"""The page of ratios and its guard; nothing here measures a time."""

import json

import pytest

from benchmarks import performance
from benchmarks.performance import Row, main, page, rows_of, slower

REPORT = {
    "benchmarks": [
        {
            "name": "test_step_over_float",
            "stats": {"median": 0.25, "rounds": 15},
            "extra_info": {"ratio": 1.2, "range": [1.1, 1.4], "goal": "1.15", "title": "QAT"},
        },
        {"name": "test_lone_time", "stats": {"median": 1, "rounds": 3}, "extra_info": {}},
    ]
}
ROWS = [Row("step_over_float", "QAT", 1.2, 1.1, 1.4, 0.25, 15, "1.15")]


def test_rows_are_the_benchmarks_with_a_ratio():
    assert rows_of(REPORT) == ROWS


def test_the_page_shows_ratio_range_goal_and_machine():
    text = page(ROWS, {"torch": "2.15", "gpu": None}, "## Changes\n\nNone.")
    assert "| QAT | 1.2 [1.1, 1.4] | 1.15 | 0.25 | 15 |  |" in text
    assert "- torch: 2.15" in text
    assert "gpu" not in text
    assert text.endswith("None.\n")


@pytest.mark.parametrize(
    ("name", "now", "fails"),
    [("x", 1.9, False), ("x", 2.0, True), ("x_speedup", 0.8, False), ("x_speedup", 0.7, True)],
)
def test_the_guard_knows_which_way_is_slower(name, now, fails):
    kept = [Row(name, "X", 1.2, 1, 1, 1, 1)]
    faults = slower([Row(name, "X", now, 1, 1, 1, 1), Row("new", "New", 9, 9, 9, 1, 1)], kept)
    assert bool(faults) == fails


def test_the_command_writes_and_then_guards(tmp_path, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(performance, "measure", lambda *a: asked.append(a) or ROWS)
    assert main(["--out", str(tmp_path), "--select", "step"]) == 0
    kept = json.loads((tmp_path / "performance.json").read_text())
    assert kept["rows"][0]["ratio"] == 1.2
    assert "QAT" in (tmp_path / "performance.md").read_text()
    assert main(["--out", str(tmp_path), "--guard", "--rounds", "3"]) == 0
    assert asked == [("step", 0), ("", 3)]
    monkeypatch.setattr(
        performance, "measure", lambda *a: [Row("step_over_float", "QAT", 9, 1, 9, 1, 3)]
    )
    assert main(["--out", str(tmp_path), "--guard"]) == 1
    assert "QAT: 9, kept is 1.2" in capsys.readouterr().out


def test_a_slow_ratio_is_measured_again_before_it_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(performance, "measure", lambda *a: ROWS)
    assert main(["--out", str(tmp_path)]) == 0
    slow = [Row("step_over_float", "QAT", 9, 1, 9, 1, 3)]
    answers = [slow, ROWS]
    monkeypatch.setattr(performance, "measure", lambda *a: answers.pop(0))
    assert main(["--out", str(tmp_path), "--guard"]) == 0
    assert not answers


def test_a_guard_that_compares_nothing_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(performance, "measure", lambda *a: ROWS)
    assert main(["--out", str(tmp_path)]) == 0
    monkeypatch.setattr(performance, "measure", lambda *a: [Row("other", "O", 1, 1, 1, 1, 1)])
    assert main(["--out", str(tmp_path), "--guard"]) == 1
