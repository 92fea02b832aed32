"""What a terminal shows of forty frameworks, and what is asked for of a table."""

import re

import pytest

from benchmarks.records.record import Record, digest
from benchmarks.report.table import MANY, build
from benchmarks.report.view import SORTS, BadView, View

CATEGORIES = ("gradient", "reinforcement", "heuristic", "metaheuristic", "baseline")


def make(number, seed=0):
    """A made-up framework: better by its number, of fewer images, and of a category in turn."""
    name = "uniform" if number == 4 else f"method_with_a_long_name_{number:02}"
    cell = {
        "framework": {"name": name},
        **{axis: {"name": axis} for axis in ("model", "dataset", "hardware")},
        "protocol": {"name": "ptq"},
        "budget": {"like": 4.0},
        "seed": seed,
    }
    return Record(
        key=digest(cell),
        cell=cell,
        status="done",
        card={"category": CATEGORIES[number % 5], "title": name, "searches": ["weight"]},
        budget={"metric": "size", "limit": 10.0, "unit": "bytes", "label": "like=4",
                "kind": "model", "within": True},
        policy={"conv": {"weight": 4, "act": 4}},
        bits={"weight": 2.0 + number / 10, "act": 4.0},
        costs={"size": 9.0 - number / 100},
        accuracy={"float": 92.0, "ptq": 50.0 + number, "final": 50.0 + number + seed / 10},
        search={"policies": 100 - number, "images_forward": 1000 * number, "seconds": 1.0 + number},
    )  # fmt: skip


@pytest.fixture(scope="module")
def records():
    return [make(number, seed) for number in range(40) for seed in range(3)]


@pytest.fixture(scope="module")
def table(records):
    return build(records)


def shown(table, **view):
    return [row.label for row in View(**view).of(table).groups[0].rows]


def number_of(label):
    return 4 if label == "uniform" else int(label[-2:])


@pytest.mark.parametrize("width", [60, 80, 100, 140, 200])
def test_no_line_is_wider_than_the_terminal(table, width):
    lines = table.text(width).splitlines()
    assert max(map(len, lines)) <= width
    group = "\n".join(lines[: lines.index("")])
    for name in ("framework", "accuracy", "vs uniform"):
        assert name in group
    lost = [line for line in lines if "Not shown at" in line]
    assert bool(lost) is (width < 110)


def test_columns_that_do_not_fit_are_named_and_the_last_ones_go_first(table):
    text = " ".join(table.text(80).split())
    assert re.search(r"! Not shown at 80 columns: .*images, time\.", text)


def test_many_rows_stand_under_their_category(table):
    text = table.text()
    found = re.findall(r"^  -- (\w+) \((\d+)\)$", text, re.MULTILINE)
    assert sorted(found) == sorted((category, "8") for category in CATEGORIES)
    for category, index in (("gradient", 0), ("heuristic", 2)):
        part = re.split(r"  --|\n\n", text.split(f"-- {category} (8)")[1])[0]
        names = re.findall(r"name_(\d\d)", part)
        assert {int(name) % 5 for name in names} == {index}
        assert names == sorted(names, reverse=True)  # by rank within the category


def test_few_rows_have_no_headings(records):
    few = [record for record in records if number_of(record.cell["framework"]["name"]) < MANY]
    assert "  -- " not in build(few).text()


def test_top_takes_the_best_and_says_what_is_left_out(table):
    assert list(map(number_of, shown(table, top=3))) == [39, 38, 37]
    assert "37 more rows are not shown." in View(top=3).of(table).text()
    assert "37 more rows are not shown." in View(top=3).of(table).markdown()
    assert shown(table, top=100) == shown(table)


def test_ranks_and_gains_are_those_of_the_whole_table(table):
    (row, *_) = View(only=["name_none", "*_20"][1:]).of(table).groups[0].rows
    whole = next(r for r in table.groups[0].rows if r.label == row.label)
    assert row is whole
    assert row.rank == 20
    assert "uniform" in row.gains


@pytest.mark.parametrize(
    ("only", "numbers"),
    [
        (["gradient"], {n for n in range(40) if n % 5 == 0}),
        (["baseline"], {n for n in range(40) if n % 5 == 4}),
        (["uniform"], {4}),
        (["*_1?"], set(range(10, 20))),
        (["uniform", "*_07"], {4, 7}),
    ],
)
def test_only_names_categories_and_frameworks(table, only, numbers):
    assert set(map(number_of, shown(table, only=only))) == numbers
    narrowed = View(only=only).of(table)
    assert {number_of(s.label) for s in narrowed.standings[0].standings} == numbers


def test_what_there_is_not_is_refused_with_the_choices(table):
    with pytest.raises(BadView, match=r"--only gradent \(did you mean gradient\?\): the categ"):
        View(only=["gradent"]).of(table)


@pytest.mark.parametrize(
    ("sort", "first"),
    [
        ("rank", 39), ("accuracy", 39), ("gain", 39), ("share", 39), ("cost", 39), ("bits", 0),
        ("policies", 39), ("images", 0), ("time", 0), ("name", 0), ("category", 39),
    ],
)  # fmt: skip
def test_sorting_by_every_key(table, sort, first):
    order = list(map(number_of, shown(table, sort=sort)))
    assert order[0] == first
    assert sorted(order) == list(range(40))
    if sort == "category":
        assert [n % 5 for n in order] == sorted((n % 5 for n in order), key=CATEGORY_ORDER.index)


CATEGORY_ORDER = [CATEGORIES.index(name) for name in sorted(CATEGORIES)]


def test_the_command_offers_what_there_is_to_sort_by():
    from benchmarks.arguments import records as arguments

    assert tuple(SORTS) == arguments.SORTS


def test_levels_are_a_column_where_there_are_any(records):
    keys = [r.key for r in records if r.cell["framework"]["name"] == "uniform"]
    levels = dict(zip(keys, ("checked", "rerun", "rerun"), strict=True))
    plain, known = build(records), build(records, levels=levels)
    assert "verified" not in plain.text() + plain.csv()
    (row,) = View(only=["uniform"]).of(known).groups[0].rows
    assert known.groups[0].verified(row) == "checked 1, rerun 2"
    assert "checked 1, rerun 2" in known.markdown()
    assert "checked 1, rerun 2" in known.csv()
    assert "Verified: checked:" in known.markdown()
    levels[keys[0]] = "rerun"
    assert build(records, levels=levels).groups[0].verified(row) == "rerun"
    del levels[keys[0]]
    assert build(records, levels=levels).groups[0].verified(row) == "rerun 2, unverified 1"
