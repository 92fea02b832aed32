"""Pages made from cards, docstrings and data."""

import re
from dataclasses import dataclass
from pathlib import Path

import pytest

import benchmarks.docs.__main__ as command
from benchmarks.docs import claims, facts, framework, juxtaposed, measured, picture
from benchmarks.docs.markup import code, prose, table
from frameworks.core.card import NEEDS, QUANTIZATIONS

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def made():
    return command.made()


def test_the_committed_pages_are_as_made(monkeypatch, made):
    """Where this fails, ``python -m benchmarks.docs`` makes them anew."""
    monkeypatch.setattr(command, "made", lambda: made)
    assert command.faults() == []


def test_a_page_that_differs_is_missing_or_is_left_over_is_named(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(command, "made", lambda: {"docs/frameworks/a.md": "a", "docs/b.svg": "b"})
    monkeypatch.setattr(command, "ROOT", tmp_path)
    (tmp_path / "docs/frameworks").mkdir(parents=True)
    (tmp_path / "docs/frameworks/a.md").write_text("c")
    (tmp_path / "docs/frameworks/d.md").write_text("d")
    assert command.faults(tmp_path) == [
        "docs/frameworks/a.md (not as made)",
        "docs/b.svg (not as made)",
        "docs/frameworks/d.md (nothing makes it)",
    ]
    monkeypatch.setattr(command, "faults", lambda: ["docs/frameworks/d.md (nothing makes it)"])
    assert command.main([]) == 1
    assert "d.md (nothing makes it); python -m benchmarks.docs" in capsys.readouterr().err
    assert (tmp_path / "docs/frameworks/a.md").read_text() == "a"
    assert (tmp_path / "docs/b.svg").read_text() == "b"
    (tmp_path / "docs/b.svg").write_text("old")
    assert command.main(["--check"]) == 1
    assert (tmp_path / "docs/b.svg").read_text() == "old"


def test_every_hyper_parameter_has_a_line():
    bare = [
        f"{name}.{p.name}"
        for name, cls in facts.built_in().items()
        for p in facts.hyperparameters(cls)
        if not p.says
    ]
    assert bare == []


def test_every_framework_says_its_technique_and_has_claims_of_both_sides():
    said = claims.read()
    found = facts.built_in()
    assert {claim.framework for claim in said} <= set(found)
    for name, cls in found.items():
        assert cls.card.quantization, name
        if cls.card.category != "baseline":
            assert all(claims.of(said, name, side) for side in claims.SIDES), name
    assert len(said) == len({(c.framework, c.claim) for c in said})


def test_words_for_all_needs_and_techniques():
    assert set(framework.NEEDS) == set(NEEDS)
    assert set(juxtaposed.MEANINGS) == set(QUANTIZATIONS)


def test_each_framework_stands_in_its_fields_of_the_two_axes(made):
    page = made["docs/frameworks/README.md"]
    rows = [line.split("|")[1:-1] for line in page.splitlines() if line.startswith("| **")]
    placed = {
        (row[0].strip(" *"), technique, name)
        for row in rows
        for technique, cell in zip(juxtaposed.MEANINGS, row[1:], strict=True)
        for name in re.findall(r"\]\((\w+)\.md\)", cell)
    }
    assert placed == {
        (cls.card.category, technique, name)
        for name, cls in facts.built_in().items()
        for technique in cls.card.quantization
    }


def test_ranks_are_those_of_the_table(made):
    (group, row) = next(measured.rows("haq"))
    ranks = sorted(r.rank for r in group.rows if r.rank)
    assert ranks == list(range(1, measured.ranked(group) + 1))
    assert f"| {row.rank} of {len(ranks)}" in made["docs/frameworks/haq.md"]
    page = made["docs/frameworks/README.md"].split("## As measured here")[1].split("##")[0]
    line = next(x for x in page.splitlines() if x.startswith("| [`haq`]"))
    assert line.split("|")[2].strip(" •") == str(row.rank)


def test_overviews_place_by_mean_gain():
    found = [o for o in measured.overviews("uniform") if o.suite == measured.MAIN]
    for one in found:
        standings = measured.suites()[one.suite].standings
        those = next(o.standings for o in standings if o.protocol == one.protocol)
        gains = [s.gain.mean for s in those if s.gain and s.groups and s.name != "uniform"]
        ahead, behind = sum(g > 1e-9 for g in gains), sum(g < -1e-9 for g in gains)
        assert ahead < one.place <= one.of - behind
    assert {o.protocol for o in found} == {"ptq", "controlled", "paper"}


def test_published_numbers_are_those_of_the_framework(made):
    page = made["docs/frameworks/edmips.md"]
    rows = [x for x in page.split("## Published")[1].splitlines() if x.startswith("| edmips")]
    assert rows
    assert "## Published" not in made["docs/frameworks/uniform.md"]


def test_the_picture_has_every_framework_and_budget():
    drawn = picture.picture()
    assert drawn.startswith("<svg xmlns=")
    groups = [g for g in measured.suites()[measured.MAIN].groups if g.protocol_name == "ptq"]
    names = {row.label for group in groups for row in group.rows}
    assert {name for name in names if f">{name}</text>" in drawn} == names
    best = sum(bool(row.best) for g in groups for row in g.rows if row.rank)
    assert drawn.count('class="ring"') == best
    assert all(f"{g.hardware}, {g.budget}<" in drawn for g in groups)


def test_a_ring_means_that_the_drawn_interval_reaches_the_best():
    marks = 0
    for group in (g for g in measured.suites()[measured.MAIN].groups if g.protocol_name == "ptq"):
        found = picture.gaps(group)
        assert found.keys() == {row.label for row in group.rows if row.rank}
        for row in (row for row in group.rows if row.rank):
            gap = found[row.label]
            reaches = gap.tested and gap.low <= 0 <= gap.high
            assert bool(row.best) == (reaches or row.label == group.verdict.best), row.label
            marks += not row.best
    assert marks > 0


def test_the_drawn_intervals_are_those_of_the_rings():
    """In pixels: of a lane's rows those with a ring reach its line at 0, to rounding."""
    drawn = picture.picture()
    pieces = re.findall(r'x1="([\d.]+)"[^>]*class="limit"|<g class="series (.*?)</g>', drawn)
    told = 0
    for zero, row in pieces:
        if zero:
            line = float(zero)
        elif whisker := re.search(r'x2="([\d.]+)"[^>]*class="whisker"', row):
            end = float(whisker.group(1))
            told += 'class="ring"' not in row
            assert end >= line - 0.11 if 'class="ring"' in row else end <= line + 0.11
    assert told > 0


def test_a_framework_without_records_is_listed_and_says_so(made):
    page = made["docs/frameworks/README.md"].split("## As measured here")[1].split("##")[0]
    listed = re.findall(r"^\| \[`(\w+)`\]", page, re.MULTILINE)
    assert sorted(listed) == sorted(set(facts.built_in()) - {"given"})
    for name in set(facts.built_in()) - {"given"}:
        section = made[f"docs/frameworks/{name}.md"].split("## As measured here")[1]
        assert (framework.UNMEASURED in section) == (not list(measured.overviews(name))), name
    given = made["docs/frameworks/given.md"]
    assert "no limit: as given" in given
    assert "results/toolkits" in given


# --- parts


@dataclass
class Base:
    """A base.

    Attributes:
        rate: how fast,
            and how far.
        one, two: both.
    """

    rate: float = 0.5


@dataclass
class Derived(Base):
    """What it does,
    in a sentence.

    More.

    Attributes:
        steps: how many.

    After that: nothing.
    """

    steps: int = 3


def test_lines_of_docstrings_are_found():
    assert list(facts.attributes(Base)) == [
        ("rate", "how fast, and how far."),
        ("one", "both."),
        ("two", "both."),
    ]
    assert list(facts.attributes(Derived)) == [("steps", "how many.")]
    assert list(facts.attributes(int)) == []
    assert facts.sentence(Derived) == "What it does, in a sentence."
    assert [(p.name, p.type, p.default, p.says) for p in facts.hyperparameters(Derived)] == [
        ("steps", "int", "3", "how many."),
        ("rate", "float", "0.5", "how fast, and how far."),
    ]


def test_markdown_shows_text_as_it_is():
    assert prose("a_b of ``x|y`` and <z>") == r"a\_b of `x\|y` and &lt;z&gt;"
    assert prose(" `a` ") == " `a` "
    assert code("") == ""
    assert table(["a", "b"], [["1", "2"]], 1) == ["| a | b |", "|:--|--:|", "| 1 | 2 |", ""]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("haq,praise,x,y,verified", r"line 2: side 'praise' is none of \['advantage'"),
        ("haq,advantage,x,y,memory", r"line 2: mark 'memory' is none of \['verified'"),
        ("haq,advantage,x,,verified", "line 2: not 5 fields"),
        ("haq,advantage,x,y,verified,z", "line 2: not 5 fields"),
    ],
)
def test_wrong_claims_are_refused(tmp_path, row, message):
    path = tmp_path / "claims.csv"
    path.write_text("framework,side,claim,source,mark\n" + row + "\n")
    with pytest.raises(ValueError, match=message):
        claims.read(path)
    path.write_text("framework,claim\n")
    with pytest.raises(ValueError, match="columns"):
        claims.read(path)
