"""No column of any form says again what another one says, on the committed records."""

import csv
import io
import re
from html import unescape
from itertools import combinations
from pathlib import Path

import pytest

from benchmarks.records.store import find_records
from benchmarks.report.table import build

ROOT = Path(__file__).resolve().parents[3]
FOLDERS = ("fashion_mnist", "hardware", "hardware_fashion", "architectures")
MEANT = {
    frozenset(pair): why
    for *pair, why in (
        ("hardware", "metric", "a target is named after its metric where it has but one"),
        ("failed", "skipped", "counts, which happen to be equal"),
        ("search_images_forward", "search_images", "of a row and of a standing"),
        ("groups", "groups_tried", "with a result, and tried"),
        ("groups", "groups_judged", "with a result, and with enough seeds for a verdict"),
        ("groups_tried", "groups_judged", "the same of those tried"),
        ("gain_uniform_n", "groups", "with a pair of uniform's, and with a result"),
        ("gain_uniform_n", "groups_judged", "the same of those with a verdict"),
        ("gain_uniform_n", "groups_tried", "the same of those tried"),
        ("groups", "best in", "with a result, and best or not told apart"),
        (
            *(
                f"ptq (pinned\\_bits=8), {x}, like=4 size"
                for x in ("cortex\\_m", "gap8\\_pulp\\_nn")
            ),
            "two targets that store the same bits in as many bytes: the same search twice",
        ),
    )
}
"""Columns that may be equal, and in what they differ."""


def by_column(heading, rows):
    assert len(set(heading)) == len(heading), heading
    return dict(zip(heading, zip(*rows, strict=True), strict=True)) if rows else {}


def text_tables(text):
    """Tables by the places of their headings, which stand two blanks apart."""
    for block in text.split("\n\n"):
        lines = [line for line in block.splitlines() if line.startswith("  ")]
        if not lines or "framework" not in lines[0]:
            continue
        names = [(m.group(), m.span()) for m in re.finditer(r"\S+( \S+)*", lines[0])]
        gaps = [
            i for i in range(max(map(len, lines)))
            if all(line[i : i + 1].strip() == "" for line in lines if "!" not in line[:5])
        ]  # fmt: skip
        rows = [line for line in lines[1:] if "!" not in line[:5]]
        edges = [max([g for g in gaps if g < start], default=0) for _, (start, _) in names]
        ends = [*edges[1:], None]
        cut = [[row[a:b].strip() for a, b in zip(edges, ends, strict=True)] for row in rows]
        yield by_column([name for name, _ in names], cut)


def markdown_tables(text):
    for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        heading, _, *rows = (
            [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            for line in block.splitlines()
        )
        yield by_column(heading, rows)


def latex_tables(text):
    for block in re.findall(r"\\toprule\n(.*?)\\bottomrule", text, re.DOTALL):
        lines = [line.removesuffix(r" \\") for line in block.splitlines() if line != r"\midrule"]
        heading, *rows = (re.split(r"(?<!\\) & ", line) for line in lines)
        yield by_column(heading, rows)


def html_tables(text):
    for table in re.findall(r"<table.*?</table>", text):
        lines = re.findall(r"<tr[^>]*>(.*?)</tr>", table)
        rows = [re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", line) for line in lines]
        heading, *rows = ([unescape(re.sub("<[^>]*>", "", c)) for c in row] for row in rows)
        yield by_column(heading, [r for r in rows if len(r) == len(heading)])


def csv_tables(text):
    rows = list(csv.DictReader(io.StringIO(text)))
    for half in dict.fromkeys(row["half"] for row in rows):
        mine = [row for row in rows if row["half"] == half]
        yield {name: tuple(row[name] for row in mine) for name in rows[0]}


def said(cells):
    """What a column says, whatever its unit and signs: the number that each cell begins with."""
    found = [re.match(r"[*{]*([+-]?\d+(\.\d+)?)(?![\d/])", cell) for cell in cells]
    return tuple(m.group(1) if m else cell for m, cell in zip(found, cells, strict=True))


FORMS = {
    "text": (lambda t: t.text(), text_tables),
    "markdown": (lambda t: t.markdown(), markdown_tables),
    "summary": (lambda t: t.summary(), markdown_tables),
    "latex": (lambda t: t.latex(), latex_tables),
    "html": (lambda t: t.html(), html_tables),
    "csv": (lambda t: t.csv(), csv_tables),
}


@pytest.fixture(scope="module")
def tables():
    return [build(find_records(ROOT / "results" / name)) for name in FOLDERS]


def repeated(found):
    """Pairs of columns that are the same in a table, in all rows where both say anything.

    Two numbers may be equal by chance, and a column that is nearly empty says little.
    """
    return {
        (a, b)
        for table in found
        for a, b in combinations(sorted(table), 2)
        if same(said(table[a]), said(table[b]))
    }


def same(one, other):
    both = [(a, b) for a, b in zip(one, other, strict=True) if a and b]
    most = max(sum(map(bool, one)), sum(map(bool, other)))
    return len(set(both)) > 2 and 2 * len(both) > most and all(a == b for a, b in both)


@pytest.mark.parametrize("form", FORMS)
def test_no_column_repeats_another(tables, form):
    render, parse = FORMS[form]
    found = [one for table in tables for one in parse(render(table)) if one]
    assert len(found) > len(FOLDERS)
    assert max(map(len, found)) > 5
    surplus = {pair for pair in repeated(found) if frozenset(pair) not in MEANT}
    assert surplus == set()


def test_a_repeated_column_is_caught():
    good = {"framework": ("a", "b", "c"), "x": ("1.00", "2.00", "3"), "y": ("1.00", "3.00", "4")}
    assert repeated([good]) == set()
    same = {**good, "z": ("**1.00 [0.5, 1.5]**", "2.00", "3")}
    assert repeated([same]) == {("x", "z")}
    assert repeated([{**good, "z": ("4", "5", "6")}, same]) == {("x", "z")}
    gaps = {"a": ("1", "2", "3", ""), "b": ("1", "2", "3", "4"), "c": ("1", "", "", "")}
    assert repeated([gaps]) == {("a", "b")}
    assert repeated([{"a": ("1", "2"), "b": ("1", "2")}]) == set()
