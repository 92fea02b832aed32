"""The page of ratios and its guard; nothing here measures a time."""

import json
from types import SimpleNamespace

import pytest

from benchmarks.studies import performance
from benchmarks.studies.performance import Row, differing, main, merged, page, rows_of, slower

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


def row(name, ratio=1.0, note=""):
    return Row(name, name, ratio, 1, 1, 1, 1, note=note)


def test_added_rows_replace_their_own_and_follow_their_tests_others():
    kept = [row("float"), row("peer[a]"), row("peer[b]"), row("solve")]
    now = merged(kept, [row("peer[a]", 2.0), row("peer[c]"), row("new"), row("peer[d]")])
    names = ["float", "peer[a]", "peer[b]", "peer[c]", "peer[d]", "solve", "new"]
    assert [r.name for r in now] == names
    assert [r.ratio for r in now] == [1, 2, 1, 1, 1, 1, 1]
    assert [r.ratio for r in kept] == [1, 1, 1, 1]


FACTS = {"time": "now", "torch": "2.15", "cores": 2, "gpu": None, "numpy": "2.4"}


@pytest.mark.parametrize(
    ("change", "faults"),
    [
        ({"time": "later"}, []),
        ({"brevitas": "0.13"}, []),
        ({"torch": "2.14"}, ["torch: 2.15 on the page, 2.14 here"]),
        ({"cores": 4}, ["cores: 2 on the page, 4 here"]),
        ({"gpu": "H100"}, ["gpu: None on the page, H100 here"]),
        ({"numpy": "2.5"}, ["numpy: 2.4 on the page, 2.5 here"]),
        ({"kernels": "plain"}, ["kernels: None on the page, plain here"]),
    ],
)
def test_environments_differ_in_all_but_the_time_and_what_one_lacks(change, faults):
    assert differing(FACTS, {**FACTS, **change}) == faults


def test_packages_that_the_page_has_may_be_missing_where_rows_are_added():
    assert differing({**FACTS, "pulp": "3"}, FACTS) == []
    assert differing({**FACTS, "kernels": "plain"}, FACTS) == [
        "kernels: plain on the page, None here"
    ]


def test_builds_of_the_systems_kernel_do_not_make_another_machine():
    page, here = (f"Linux-6.18.44-fc-v{n}-x86_64-with-glibc2.36" for n in (595, 782))
    assert differing({**FACTS, "platform": page}, {**FACTS, "platform": here}) == []
    other = {**FACTS, "platform": here.replace("x86_64", "aarch64")}
    assert len(differing({**FACTS, "platform": page}, other)) == 1


@pytest.fixture
def kept_page(tmp_path, monkeypatch):
    monkeypatch.setattr(performance, "machine", lambda: FACTS)
    monkeypatch.setattr(performance, "measure", lambda *a: [row("float"), row("peer[a]")])
    assert main(["--out", str(tmp_path)]) == 0
    return tmp_path / "performance.json"


def test_adding_keeps_the_other_rows_and_dates_the_new(kept_page, monkeypatch):
    later = {**FACTS, "time": "later", "brevitas": "0.13"}
    monkeypatch.setattr(performance, "machine", lambda: later)
    monkeypatch.setattr(performance, "measure", lambda *a: [row("peer[b]", 0.5, "brevitas 0.13")])
    assert main(["--out", str(kept_page.parent), "--add", "--select", "b"]) == 0
    data = json.loads(kept_page.read_text())
    assert data["machine"] == FACTS
    assert [(r["name"], r["ratio"], r["note"]) for r in data["rows"]] == [
        ("float", 1.0, ""),
        ("peer[a]", 1.0, ""),
        ("peer[b]", 0.5, "brevitas 0.13; added later"),
    ]
    assert "brevitas 0.13; added later" in kept_page.with_suffix(".md").read_text()


def test_rows_of_another_machine_are_not_even_measured(kept_page, monkeypatch, capsys):
    before = kept_page.read_bytes()
    monkeypatch.setattr(performance, "machine", lambda: {**FACTS, "torch": "2.14"})
    monkeypatch.setattr(performance, "measure", lambda *a: pytest.fail("measured"))
    assert main(["--out", str(kept_page.parent), "--add"]) == 1
    assert "torch: 2.15 on the page, 2.14 here" in capsys.readouterr().out
    assert kept_page.read_bytes() == before


@pytest.mark.parametrize("options", [[], ["--add"]])
def test_where_all_rows_are_skipped_the_page_stays(kept_page, monkeypatch, options):
    before = kept_page.read_bytes()
    monkeypatch.setattr(performance, "measure", lambda *a: [])
    assert main(["--out", str(kept_page.parent), *options]) == 1
    assert kept_page.read_bytes() == before


@pytest.mark.parametrize("code", [1, 5])
def test_a_run_that_wrote_no_report_had_only_skips_or_failed(monkeypatch, code):
    ended = SimpleNamespace(returncode=0)
    monkeypatch.setattr(performance.subprocess, "run", lambda *a, **k: ended)
    assert performance.measure("x") == []
    ended.returncode = code
    with pytest.raises(RuntimeError, match=f"exit code {code}"):
        performance.measure("x")


def test_adding_and_guarding_exclude_each_other(tmp_path):
    with pytest.raises(SystemExit):
        main(["--out", str(tmp_path), "--add", "--guard"])
