"""What searches say of themselves, and how they went."""

import re
from html import unescape

import pytest

from benchmarks.report.numbers.cells import Cell
from benchmarks.report.numbers.marks import marks
from benchmarks.report.numbers.rows import Row
from benchmarks.report.pictures import curves, figures
from benchmarks.report.pictures.convergence import mean_curve
from benchmarks.report.table import build, write
from tests.benchmarks.report.made import Page, learned, make, only, rows_of


def row_of(*records):
    return Row("haq", "haq", [Cell.of(record) for record in records])


def test_mean_curve_by_hand():
    first = make(search={"policies": 30}, curve=[
        {"policies": 10, "objective": 80.0}, {"policies": 20, "objective": 84.0}])  # fmt: skip
    second = make(search={"policies": 25}, curve=[
        {"policies": 5, "objective": 90.0}, {"policies": 15, "objective": 86.0}])  # fmt: skip
    # From 10, where both have a value; the second never falls back from 90.
    assert mean_curve(row_of(first, second), "policies") == [
        (10, 85.0),
        (15, 85.0),
        (20, 87.0),
        (25, 87.0),
        (30, 87.0),
    ]
    assert mean_curve(row_of(make(curve=[])), "policies") == []


@pytest.fixture(scope="module")
def said():
    """A search that learned once in three, one that always did, a collapsed and a remarked one."""
    notes = {
        "haq": [learned(True), learned(False), learned(False)],
        "autoq": [learned(True, curve=[3.0, 2.0, 1.0], objective="goal distance")] * 3,
        "bsq": [{"collapsed": True}, {"collapsed": False}, {}],
        "uniform": [{"remark": "no uniform policy fits the budget"}] * 3,
        "random": [{"distinct": 9}] * 3,
    }
    return build(
        make(name, seed=seed, notes=found) for name, all_ in notes.items()
        for seed, found in enumerate(all_)
    )  # fmt: skip


FOOTNOTES = (
    "haq † did not learn in 2 of 3 seeds: its own objective (reward) showed no improvement at 5 %.",
    "bsq ‡ collapsed in 1 of 3 seeds: only networks near chance were within the budget.",
    "uniform § no uniform policy fits the budget (3 of 3 seeds).",
)


def test_searches_that_did_not_learn_are_marked_in_every_format(said):
    names = {"haq†", "autoq", "bsq‡", "uniform§", "random"}
    for shown in (said.text(), said.markdown(), said.html()):
        flat = " ".join(unescape(shown).replace("\\", "").replace("•", "").split())
        assert all(name in flat for name in names)
        assert "autoq†" not in flat
        for note in FOOTNOTES:
            assert note in flat
    latex = said.latex()
    assert "haq\\textbullet{}\\dag{}" in latex
    assert "bsq\\textbullet{}\\ddag{}" in latex
    assert "uniform§ (b)" in latex
    assert "did not learn in 2 of 3 seeds" in latex
    rows = {row["framework"]: row for row in rows_of(said)}
    assert set(rows) == {"haq", "autoq", "bsq", "uniform", "random"}, "names stay plain"
    keys = ("objective", "learned", "did_not_learn", "collapsed", "remarks")
    assert [rows["haq"][k] for k in keys] == ["reward", "1", "2", "", ""]
    assert [rows["autoq"][k] for k in keys] == ["goal distance", "3", "0", "", ""]
    assert [rows["bsq"][k] for k in keys] == ["", "", "", "1", ""]
    assert rows["uniform"]["remarks"] == "no uniform policy fits the budget"
    assert [rows["random"][k] for k in keys] == [""] * 5


def test_the_summary_marks_the_number_of_the_group_that_is_meant():
    records = [make("haq", like=2.5, accuracy=80.0, notes=learned(False))]
    records += [make("haq", like=3.0, accuracy=85.0, notes=learned(True))]
    lines = build(records).summary().splitlines()
    (row,) = (line for line in lines if line.startswith("| haq"))
    assert row.startswith("| haq |")
    assert "| 80.00† |" in row
    assert "| 85.00 |" in row
    assert any("did not learn" in line for line in lines)
    plain = build([make("haq", notes=learned(True))]).summary()
    assert "did not learn" not in plain


def test_a_search_that_learned_has_no_mark():
    group = only([make("haq", seed=i, notes=learned(True)) for i in range(3)])
    assert marks(group.rows[0]) == []
    assert group.rows[0].best is None, "it has no rival"


@pytest.mark.parametrize(
    "notes",
    [
        {"learning": None}, {"learning": 3}, {"learning": []}, {"learning": {}},
        {"learning": {"improved": "no"}}, {"collapsed": 1}, {"remark": 3}, {"remark": "  "},
        {"remark": None}, {"learning": {"improved": None, "curve": "abc"}},
    ],
)  # fmt: skip
def test_notes_of_another_shape_say_nothing(notes):
    table = build([make("haq", notes=notes)])
    assert marks(table.groups[0].rows[0]) == []
    assert table.files()


@pytest.mark.parametrize(
    "curve", [[], [1.0], None, "abc", 5, [None, True, "x"], [None, 1.0], {"a": 1}]
)
def test_curves_that_cannot_be_drawn_are_left_out(curve):
    table = build([make("haq", notes={"learning": {"improved": False, "curve": curve}})])
    assert not [name for name in table.files() if name.startswith("learning")]
    assert "did not learn in 1 of 1 seed: its own objective (unnamed)" in table.markdown()


def test_learning_curves_by_hand(said):
    found = {"curve": [4.0, None, 2.0, float("inf"), 1.0]}
    assert curves.points(found) == [(20, 4.0), (60, 2.0), (100, 1.0)]
    row = only([make("haq", notes=learned(False, curve=[1.0, 5.0]))]).rows[0]
    drawn = curves.picture(row, figures.styles(build([make("haq")]).groups))
    (path,) = re.findall(r'<path d="M([^"]*)"', drawn)
    (x1, y1), (x2, y2) = (map(float, point.split()) for point in path.split("L"))
    # 52 and 12 pixels are beside the frame of 270, 8 and 36 above and below that of 168; the
    # values have a tenth of their range above and below them.
    assert (x1, x2) == (52 + 206 / 2, 258)
    assert (y1, y2) == pytest.approx((132 - 124 / 12, 8 + 124 / 12), abs=0.06)
    assert "did not learn (p = 0.4)" in drawn


def test_learning_pictures_are_on_the_page_and_files_of_their_own(said, tmp_path):
    page = said.html()
    assert page.count("Learning of haq•: reward") == page.count("Learning of autoq") == 1
    assert page.count(' unlearned"') == 2
    write(said, tmp_path)
    (path,) = tmp_path.glob("learning-*.svg")
    picture = path.read_text()
    assert path.name == "learning-ptq-resnet8-fashion-mnist-size-size-like-3.svg"
    assert picture.startswith('<svg xmlns="http://www.w3.org/2000/svg"')
    Page(picture)
    assert picture.count("<svg ") == 3
    assert "haq•†" in picture
