"""The table, from made-up records: groups, rows, ranks and differences."""

import itertools
import re

import pytest

from benchmarks.report.numbers import format as show
from benchmarks.report.table import build
from tests.benchmarks.report.made import METHODS, make, only, rows_of, seeds


def test_a_row_by_hand():
    records = seeds("uniform", [88.0, 89.0, 90.0]) + seeds("haq", [89.0, 90.5, 91.0])
    haq, uniform = only(records).rows
    assert (haq.label, haq.rank, uniform.label, uniform.rank) == ("haq", 1, "uniform", 2)
    assert haq.accuracy.mean == pytest.approx(270.5 / 3)
    assert (haq.accuracy.low, haq.accuracy.high, haq.accuracy.n) == (89.0, 91.0, 3)
    gain = haq.gains["uniform"]
    # 1, 1.5 and 1: a standard error of 1/6, and 4.303 is the quantile of two degrees of freedom.
    half = 4.30265 / 6
    assert (gain.mean, gain.n, gain.level) == (pytest.approx(3.5 / 3), 3, 0.95)
    assert (gain.low, gain.high) == pytest.approx((gain.mean - half, gain.mean + half), abs=1e-5)
    assert gain.significant
    assert (haq.best, uniform.best) == (True, False)
    assert uniform.gains.keys() == {"best"}
    assert uniform.gains["best"].mean == -gain.mean
    assert (haq.baseline, uniform.baseline) == (False, True)


def test_gain_is_paired_by_seed_and_by_what_made_the_records():
    other = {"code": {"framework": {"juxtabit": "9", "revision": 2}}, "numerics": {"threads": 1}}
    records = [
        *seeds("uniform", [80.0, 90.0]),
        make("haq", seed=0, accuracy=99.0, identity=other, time="2026-01-02T00:00:00Z"),
        make("hawq", seed=1, accuracy=91.0),
    ]
    group = only(records)
    gains = {row.name: row.gains.get("uniform") for row in group.rows}
    assert (gains["hawq"].mean, gains["hawq"].n) == (1.0, 1)
    assert gains["haq"] is None
    note = "2 different versions or numerics (unknown; juxtabit 9, revision 2, threads 1)"
    assert note in " ".join(build(records).text().split())
    assert note in build(records).html()


def test_protocols_models_targets_and_budgets_are_not_mixed():
    records = [
        make(),
        make(protocol="controlled"),
        make(model="resnet20"),
        make(hardware="bops"),
        make(like=2.5),
        make(dataset="digits"),
    ]
    table = build(records)
    assert len(table.groups) == 6
    assert [o.protocol for o in table.standings] == ["ptq", "controlled"]
    assert [o.groups for o in table.standings] == [5, 1]


def test_settings_that_differ_are_named_and_those_without_influence_are_not():
    other = make(seed=1)
    other.cell["protocol"]["weight_bits"] = [4, 8]
    moved = make(seed=2)
    moved.cell["dataset"]["root"] = "/elsewhere"
    table = build([make(), other, moved])
    titles = {group.protocol: len(group.rows[0].cells) for group in table.groups}
    assert titles == {"ptq (weight_bits=[2, 3, 4, 5, 6, 8])": 2, "ptq (weight_bits=[4, 8])": 1}


def test_whole_numbers_are_equal_and_long_differences_are_cut():
    records = [make("haq", seed=i, params={"lr": lr}) for i, lr in enumerate((1, 1.0))]
    assert [row.label for row in only(records).rows] == ["haq"]
    many = [{f"key{i}": value for i in range(9)} for value in ("a", "b")]
    found = [row.label for row in only([make("haq", params=params) for params in many]).rows]
    assert len(set(found)) == 2
    assert all(label.startswith("haq (key0=") and "7 more: " in label for label in found)


def test_two_configurations_of_a_framework_are_two_rows():
    records = [
        make("haq", accuracy=90.0, params={"episodes": 60}),
        make("haq", accuracy=91.0, params={"episodes": 600}),
    ]
    assert [row.label for row in only(records).rows] == ["haq (episodes=600)", "haq (episodes=60)"]
    apart = [make("haq", params={"episodes": 60}), make("haq", like=2.5, params={"episodes": 600})]
    assert {row.label for group in build(apart).groups for row in group.rows} == {"haq"}


def test_a_label_names_no_length_that_was_not_asked_for():
    settings = ({"evaluations": 0}, {"evaluations": 100}, {"images": 15056, "evaluations": 0})
    records = [make("greedy", params={"images": 0, **one}) for one in settings]
    names = {row.label for row in only(records).rows}
    assert names == {"greedy", "greedy (evaluations=100)", "greedy (images=15056)"}


def test_random_with_as_many_evaluations_is_the_rival():
    few = seeds("random", [80.0], params={"evaluations": 50})
    many = seeds("random", [85.0], params={"evaluations": 500})
    few[0].search["policies"], many[0].search["policies"] = 50, 500
    rows = {row.label: row for row in only([*few, *many, *seeds("haq", [90.0])]).rows}
    assert rows["haq"].random.label == "random (evaluations=500)"
    assert rows["haq"].gains["random"].mean == 5.0


def test_newest_record_of_a_cell_wins_and_older_ones_are_counted():
    records = [
        make(accuracy=50.0, code="old", time="2025-01-01T00:00:00Z"),
        make(accuracy=90.0, code="new", time="2026-03-01T00:00:00Z"),
        make(accuracy=60.0, code="older", time="2024-01-01T00:00:00Z"),
    ]
    for order in itertools.permutations(records):
        table = build(order)
        assert table.older == 2
        assert table.groups[0].rows[0].accuracy.mean == 90.0
        assert "2 older records of the same cells left out" in table.text()


def test_cells_over_budget_are_flagged_and_never_ranked_or_paired():
    records = [
        *seeds("uniform", [88.0, 88.0, 88.0]),
        make("penalty", seed=0, accuracy=89.0),
        make("penalty", seed=1, accuracy=99.0, within=False),
        *seeds("greedy", [99.0], within=False),
    ]
    table = build(records)
    first, second, *over = table.groups[0].rows
    assert (first.label, first.accuracy.mean, first.status) == ("penalty", 89.0, "1 over budget")
    assert second.label == "uniform"
    assert [(r.label, r.rank, r.over) for r in over] == [
        ("greedy", None, True),
        ("penalty", None, True),
    ]
    assert not any(row.gains for row in over)
    assert first.gains["uniform"].n == 1
    assert table.text().count("OVER BUDGET") == 3
    assert "112.0%" in table.text()
    standing = next(s for s in table.standings[0].standings if s.label == "greedy")
    assert (standing.groups, standing.tried, standing.area) == (0, 1, 0.0)
    assert (standing.images, standing.seconds, standing.judged) == (None, None, 0)


def test_a_record_that_does_not_say_so_is_not_within_budget():
    record = make()
    del record.budget["within"]
    assert only([record]).rows[0].rank == 1
    record.costs["size"] = record.budget["limit"] * 1.001
    assert only([record]).rows[0].over
    record.costs.clear()
    assert only([record]).rows[0].over


def test_barely_over_budget_is_not_rounded_to_the_budget():
    assert show.percent(1.0000004) == "100.00004%"
    assert show.percent(1.0) == "100.0%"


def test_failures_and_skips_are_listed_with_their_reasons(whole):
    for text in (whole.text(), whole.markdown(), whole.latex(), whole.html(), whole.csv()):
        assert "RuntimeError: it broke" in text
        assert "the model has no BatchNorm" in text
    assert "227 cells: 222 done (2 OVER BUDGET), 2 failed, 3 skipped." in whole.text()
    assert "Traceback (most recent call last):" in whole.html()


def test_a_group_in_which_all_failed_still_shows():
    table = build([make(status="failed"), make(seed=1, status="skipped")])
    assert "1 failed, 1 skipped" in table.text()
    assert "like=3" in table.text()
    assert table.html()


def test_what_was_not_measured_is_blank():
    record = make()
    record.search, record.bits = {}, {}
    row = rows_of(build([record]))[0]
    assert row["search_policies"] == row["weight_bits"] == row["ptq_accuracy"] == ""
    assert row["accuracy_low"] == row["gain_uniform"] == row["best"] == row["behind_best"] == ""
    trained = make(protocol="controlled")
    (row,) = rows_of(build([trained]))
    assert float(row["ptq_accuracy"]) == trained.accuracy["ptq"] != float(row["accuracy"])
    assert "None" not in build([record]).text() + build([record]).markdown()
    page = build([record]).html()
    assert not re.search(r">\s*(nan|none)\b", page.split("<script>")[0], re.IGNORECASE)


def test_overall_by_hand():
    records = []
    for like, gains in ((3.0, [1.0, -2.0, 0.0]), (2.5, [2.0, 3.0, 4.0])):
        records += seeds("uniform", [80.0] * 3, like=like)
        records += seeds("haq", [80.0 + g for g in gains], like=like)
    table = build(records)
    best = {s.label: s for s in table.standings[0].standings}
    # Mean gains by group: -1/3 and 3.
    assert best["haq"].gain.mean == pytest.approx((3 - 1 / 3) / 2)
    assert best["haq"].gain.n == 2
    assert best["haq"].records == {"uniform": (4, 1, 1)}
    # Test errors 20 + 1/3 against 20, and 17 against 20.
    assert best["haq"].ratios == pytest.approx([(20 + 1 / 3) / 20, 1.0])
    assert best["uniform"].ratios == pytest.approx([1.0, 20 / 17])
    assert best["uniform"].area == pytest.approx((1 + (2 - 20 / 17)) / 2)
    assert (best["haq"].leads, best["haq"].judged, best["haq"].best) == (2, 2, None)
    assert best["haq"].images == sum(METHODS["haq"][2:4])
    assert best["haq"].seconds == pytest.approx(95.0 * 1.1), "the mean of 1, 1.1 and 1.2"


def test_a_lone_framework_is_not_the_best_of_its_group():
    assert build(seeds("haq", [90.0])).standings[0].standings[0].area is None
