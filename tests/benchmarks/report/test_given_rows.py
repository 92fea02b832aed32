"""Policies that were found elsewhere: in the table with what is known of them, and no more."""

import csv
import io

import pytest

from benchmarks.records.record import Record
from benchmarks.report.pictures.convergence import mean_curve
from benchmarks.report.table import build

CARD = {"title": "A given policy", "year": 2026, "category": "baseline"}
SEARCH = {"policies": 1, "images_forward": 1768, "images_backward": 0, "seconds": 5.3,
          "peak_memory": 2**30}  # fmt: skip


def made(seed, name="given", **notes):
    cell = {
        "framework": {"name": name, "label": "MCT"} if name == "given" else {"name": name},
        "model": {"name": "resnet8"},
        "dataset": {"name": "digits"},
        "hardware": {"name": "size"},
        "protocol": {"name": "ptq"},
        "budget": {"like": 3},
        "seed": seed,
    }
    record = Record(key=f"{name}{seed}", cell=cell, status="done", card=CARD, notes=notes)
    record.budget = {"metric": "size", "limit": 100.0, "label": "like=3", "within": True}
    record.accuracy = {"float": 92.0, "final": 90.0 + seed / 10}
    record.costs, record.bits = {"size": 90.0}, {"weight": 3.0, "act": 8.0}
    record.search = SEARCH
    record.curve = [{"policies": 1, "images": 1768, "seconds": 5.3, "objective": 91.0}]
    return record


def cells(table):
    found = csv.DictReader(io.StringIO(table.csv()))
    return {row["framework"]: row for row in found if row["half"] == "measured"}


@pytest.fixture(scope="module")
def table():
    given = [made(seed) for seed in range(3)]
    return build([*given, *(made(seed, "greedy") for seed in range(3))])


def test_what_scoring_cost_here_is_not_what_the_search_cost(table):
    rows = cells(table)
    spent = [f"search_{key}" for key in SEARCH]
    assert [rows["MCT"][key] for key in spent] == [""] * 5
    assert float(rows["greedy"]["search_seconds"]) == pytest.approx(5.3)
    (line,) = [line for line in table.markdown().splitlines() if "MCT" in line and "[90." in line]
    assert "1.768k" not in line
    assert "5.3" not in line
    assert "GiB" not in line
    overall = next(s for s in table.standings[0].standings if s.label == "MCT")
    assert (overall.images, overall.seconds) == (None, None)


def test_it_is_no_baseline_and_has_no_convergence(table):
    (row,) = [row for row in table.groups[0].rows if row.name == "given"]
    assert (row.baseline, row.category) == (False, "given")
    assert "greedy• (b)" in table.text()
    assert "MCT• (b)" not in table.text()
    assert mean_curve(row, "images") == []
    (other,) = [row for row in table.groups[0].rows if row.name == "greedy"]
    assert mean_curve(other, "images") != []


def test_what_a_file_says_of_its_search_is_shown():
    said = {"elsewhere": {"seconds": 240.0, "images_forward": 4096}}
    (row,) = build([made(seed, **said) for seed in range(3)]).groups[0].rows
    assert (row.mean("search", "seconds"), row.images, row.mean("search", "policies")) == (
        240.0,
        4096.0,
        None,
    )


def test_policies_of_one_label_are_one_row_where_each_has_a_seed_of_its_own():
    records = [made(seed) for seed in range(3)]
    for record in records:
        record.cell["framework"]["policy"] = f"{record.key}.json"
    (row,) = build(records).groups[0].rows
    assert (row.label, len(row.cells)) == ("MCT", 3)
    other = made(2)
    other.key, other.cell["framework"]["policy"] = "other", "other.json"
    assert len(build([*records, other]).groups[0].rows) == 4
    other.cell["framework"]["label"] = "AIMET"
    rows = build([*records, other]).groups[0].rows
    assert sorted((row.label, len(row.cells)) for row in rows) == [("AIMET", 1), ("MCT", 3)]
    other.cell["budget"] = {"like": 4}
    assert [len(row.cells) for group in build([*records, other]).groups for row in group.rows] == [
        3, 1,
    ]  # fmt: skip
