"""Budgets of several metrics, and trained weights that a protocol drops, in records and tables."""

import re

import pytest

from benchmarks.records.record import CorruptRecord, Record
from benchmarks.report.numbers.bounds import Bound, bounds_of, nearest, within
from benchmarks.report.numbers.cells import Cell, budget_label
from benchmarks.report.table import build
from frameworks import BudgetSpec
from tests.benchmarks.report.made import make, only, rows_of

SIZE, LATENCY = Bound("size", 1000.0, "bytes"), Bound("latency", 2.0, "ms")
ASKED = {"size": {"like": 4}, "latency": {"ratio": 0.5}}


def bounded(size, latency, framework="haq", **options):
    """A record with the limits above and a policy of these costs."""
    record = make(framework, **options)
    record.cell["budget"] = {"like": None, "ratio": None, "limit": None, "metric": None,
                             "metrics": ASKED}  # fmt: skip
    record.costs = {"size": size, "latency": latency, "energy": 7.0}
    record.budget = {
        "metric": "size", "limit": 1000.0, "unit": "bytes", "kind": "model",
        "label": "like=4 size and ratio=0.5 latency",
        "bounds": [{"metric": b.metric, "limit": b.limit, "unit": b.unit} for b in (SIZE, LATENCY)],
        "within": size <= 1000 and latency <= 2,
    }  # fmt: skip
    return Record.from_json(record.to_json())


def test_a_record_without_bounds_reads_as_before():
    record = make()
    assert bounds_of(record.budget) == (Bound("size", 24_000.0, "bytes"),)
    assert bounds_of({}) == bounds_of({"metric": "size"}) == ()
    group = only([record])
    assert (group.metric, group.limit, group.unit) == ("size", 24_000.0, "bytes")
    assert group.bound == "size <= 24,000 bytes"
    assert group.share(group.rows[0]) == record.costs["size"] / 24_000
    assert group.binding(group.rows[0]) == ""


def test_the_metric_nearest_to_its_limit_is_shown_and_named():
    group = only([bounded(900, 1.0), bounded(500, 1.9, seed=1), bounded(100, 1.6, "hawq")])
    haq, hawq = sorted(group.rows, key=lambda row: row.name)
    assert group.share(haq) == pytest.approx((0.9 + 0.95) / 2)
    assert (group.binding(haq), group.binding(hawq)) == ("size, latency", "latency")
    assert group.bound == "size <= 1,000 bytes and latency <= 2 ms"
    assert group.panel[-1] == "size and latency"


def test_every_form_has_every_limit():
    table = build([bounded(900, 1.0), bounded(500, 1.9, "uniform")])
    for text in (table.text(), table.markdown(), table.html(), table.latex()):
        flat = text.replace("\\", "").replace("&lt;", "<").replace("textless{}", "<")
        assert "size <= 1,000 bytes and latency <= 2 ms" in flat
        assert "90.0% size" in flat
        assert "95.0% latency" in flat
        heading = next(
            line for line in flat.splitlines() if "of budget" in line and "framework" in line
        )
        assert re.search(r"of budget.*size.*latency", heading)
    rows = {row["framework"]: row for row in rows_of(table)}
    assert rows["haq"]["bounds"] == "size <= 1,000 bytes and latency <= 2 ms"
    assert (rows["haq"]["budget_metric"], rows["haq"]["cost_latency"]) == ("size", "1.0")
    assert float(rows["uniform"]["budget_share"]) == 0.95
    assert "energy" not in table.text()


@pytest.mark.parametrize(
    ("size", "latency", "met"),
    [(900, 1.9, True), (1000, 2.0, True), (1001, 1.0, False), (10, 2.01, False), (2000, 9, False)],
)
def test_within_is_all_limits(size, latency, met):
    record = bounded(size, latency)
    assert within(record) == met
    assert within(bounded(size, latency, "hawq", seed=3)) == met
    del record.budget["within"]
    assert within(record) == met
    assert (nearest(record, (SIZE, LATENCY))[0] <= 1) == met
    assert only([record]).rows[0].over != met
    del record.costs["latency"]
    assert not within(record)
    assert nearest(record, (SIZE, LATENCY)) is None


def test_a_row_over_budget_never_seems_to_be_within():
    """Each policy breaks another limit, and the mean of either metric is within its own."""
    group = only([bounded(1100, 0.1), bounded(100, 2.2, seed=1)])
    assert group.rows[0].over
    assert group.share(group.rows[0]) == pytest.approx(1.1)
    assert "110.0% size, latency" in build([bounded(1100, 0.1), bounded(100, 2.2, seed=1)]).text()


def test_one_and_several_limits_are_other_groups_and_pictures():
    single = make(like=4.0)
    table = build([single, bounded(900, 1.0)])
    assert len(table.groups) == 2
    assert sum(name.startswith("pareto") for name in table.files()) == 2


def test_a_key_that_earlier_records_lack_divides_no_cells():
    new = make(seed=1)
    new.cell["budget"]["metrics"] = None
    assert Cell.of(new).axes == Cell.of(make()).axes


def test_labels_are_those_of_the_request():
    for asked in ({"metrics": ASKED}, {"like": 2.5}, {"ratio": 0.5, "metric": "size"}):
        assert budget_label(asked) == BudgetSpec(**asked).label
    assert budget_label({"like": None, "metrics": None}) == "like=4"
    failed = bounded(1, 1, status="failed")
    failed.budget = {}
    assert "like=4 size and ratio=0.5 latency" in build([failed]).text()


@pytest.mark.parametrize(
    ("bounds", "fault"),
    [
        ([], "budget.bounds is an empty list"),
        ([{"metric": "size", "limit": 3}], r"budget.bounds\[0\] lacks unit"),
        ([{"metric": "size", "limit": -1, "unit": ""}], r"budget.bounds\[0\].limit is -1"),
        ({"size": 3}, "budget.bounds is an object, not a list"),
    ],
)
def test_odd_bounds_are_refused(bounds, fault):
    record = make().to_json()
    record["budget"]["bounds"] = bounds
    with pytest.raises(CorruptRecord, match=fault):
        Record.from_json(record)


# --- weights that a protocol drops


def test_dropped_weights_are_marked_in_every_form():
    records = [make("haq", seed=seed, weights={"dropped": True}) for seed in (0, 1)]
    table = build([*records, make("haq", seed=2), make("hawq")])
    note = "haq ¶ trained weights in its search (2 of 3 seeds), which this protocol does not use."
    for text in (table.text(), table.markdown(), table.html(), table.latex()):
        flat = " ".join(text.replace("\\", "").split())
        assert note in flat
        assert "haq¶" in flat
        assert "hawq¶" not in flat
    assert "¶" in table.summary()
    assert {r["framework"]: r["weights_dropped"] for r in rows_of(table)} == {
        "haq": "2",
        "hawq": "",
    }


def test_what_is_dropped_is_true_or_false():
    with pytest.raises(CorruptRecord, match=r"weights\.dropped is 1, neither true nor false"):
        make(weights={"dropped": 1})
