"""The table in all its forms: text, Markdown, CSV, LaTeX, HTML and pictures."""

import csv
import io
import itertools
import os
import re
import subprocess
import sys
from xml.etree import ElementTree

import pytest

from benchmarks.records.store import write_json
from benchmarks.report.formats.blocks import FULL, group_block
from benchmarks.report.pictures import figures
from benchmarks.report.table import build, write
from tests.benchmarks.report.made import (
    METHODS,
    ROOT,
    Page,
    card,
    learned,
    make,
    only,
    rows_of,
    seeds,
    suite,
)


def test_text_fits_the_terminal_and_has_every_column(whole):
    lines = whole.text().splitlines()
    assert max(map(len, lines)) <= 140
    header = next(line for line in lines if line.startswith("resnet8"))
    for part in ("fashion_mnist", "bops (model)", "ptq", "like=3: bops <= 120M", "float 91.45"):
        assert part in header
    for column in ("accuracy", "vs uniform", "of budget", "bits W/A", "policies", "time", "status"):
        assert any(column in line for line in lines)


def test_reported_half_is_below_the_measured_in_every_format(whole):
    for text in (whole.markdown(), whole.latex(), whole.html()):
        assert text.index("As published") > text.rindex("like=2.5")
        assert "mit-han-lab/haq" in text
    halves = [row["half"] for row in csv.DictReader(io.StringIO(whole.csv()))]
    assert [half for half, _ in itertools.groupby(halves)] == [
        "measured",
        "overall",
        "reported",
    ]


def test_csv_is_read_back(whole):
    rows = rows_of(whole)
    assert len(rows) == sum(len(group.rows) for group in whole.groups)
    haq = next(r for r in rows if r["framework"] == "haq" and r["protocol"] == "controlled")
    assert float(haq["accuracy_low"]) <= float(haq["accuracy"]) <= float(haq["accuracy_high"])
    assert haq["category"] == "reinforcement"
    assert haq["searches"] == "weight+act"
    assert float(haq["cost_size"]) > 0
    assert {r["protocol"] for r in rows_of(whole, "overall")} == {"ptq", "controlled"}


def test_all_text_is_escaped():
    evil = "<script>alert('x')</script> & 50% | _a_ \\end{table} \x1b[31m"
    record = make("haq", card={**card("haq"), "quantizer": evil})
    record.cell["model"]["name"] = evil
    failed = make("broken", status="failed", error=f"Traceback\nValueError: {evil}")
    failed.cell["model"]["name"] = evil
    table = build([record, failed, make("zeroq", status="skipped", reason=evil)])
    page = table.html("<b>title</b>")
    assert "alert('x')</script>" not in page
    assert "<b>title" not in page
    assert "&lt;script&gt;" in page
    assert "\x1b" not in table.text()
    assert r"\end{table} \end" not in table.latex()
    assert r"50\%" in table.latex()
    assert "<script>" not in table.markdown()
    previous = 0
    for line in table.markdown().splitlines():
        pipes = len(re.findall(r"(?<!\\)\|", line)) if line.startswith("|") else 0
        assert not (pipes and previous) or pipes == previous
        previous = pipes


def test_page_is_whole_and_needs_no_network(whole):
    page = Page(whole.html())
    assert not page.open
    assert all(link.startswith("#") and link[1:] in page.ids for link in page.links)
    assert "@import" not in whole.html()
    assert "url(" not in whole.html()
    assert "prefers-color-scheme: dark" in whole.html()


def test_page_has_a_picture_of_everything(whole):
    text = whole.html()
    panels = {group.panel for group in whole.groups}
    assert text.count('class="pareto"') == len(panels) == 4
    assert text.count("Performance profiles under") == 2
    assert text.count('class="costs"') == 4
    for name in ("haq", "hawq", "hawq_v3", "dnas", "edmips", "autoq", "greedy"):
        axis = "policies" if METHODS[name][1] > 1 else "images"
        assert len(re.findall(f'aria-label="Convergence of {name}•? against {axis}"', text)) == 8
    assert text.count("Pareto fronts of mohaq: size against error") == 1


def test_same_records_in_any_order_give_the_same_bytes(whole):
    again = build(suite()[::-1])
    for name in ("text", "markdown", "csv", "latex", "html"):
        assert getattr(again, name)() == getattr(whole, name)()


def test_bytes_do_not_depend_on_the_hash_seed(tmp_path):
    store = tmp_path / "records"
    for record in suite(seeds=1, protocols=("ptq",), hardware=("size",)):
        write_json(store / f"{record.key}.json", record.to_json())
    code = (
        "import hashlib, pathlib, sys; from benchmarks.records.store import find_records;"
        "from benchmarks.report.table import build;"
        "t = build(find_records(pathlib.Path(sys.argv[1])));"
        "print(hashlib.sha256((t.text() + t.csv() + t.html()).encode()).hexdigest(),"
        "'torch' in sys.modules)"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code, str(tmp_path)],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(outputs) == 1
    assert outputs.pop().split()[1] == "False"  # the table starts without torch


def test_write_makes_whole_files(whole, tmp_path):
    paths = write(whole, tmp_path / "out")
    names = {f"juxtaposition.{suffix}" for suffix in ("csv", "html", "md", "tex", "txt")}
    pictures = {p.name for p in paths if p.suffix == ".svg"}
    assert {p.name for p in (tmp_path / "out").iterdir()} == {p.name for p in paths}
    assert {p.name for p in paths} - pictures == names
    assert (tmp_path / "out" / "juxtaposition.txt").read_text() == whole.text()


def test_pictures_stand_alone(whole, tmp_path):
    panels = {group.panel for group in whole.groups if any(row.rank for row in group.rows)}
    pictures = [p for p in write(whole, tmp_path) if p.suffix == ".svg"]
    assert len(pictures) == len(panels)
    for path in pictures:
        root = ElementTree.parse(path).getroot()
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert "--bg" in path.read_text()


def test_the_summary_has_a_row_a_framework_and_a_column_a_budget(whole):
    lines = [line for line in whole.summary().splitlines() if line.startswith("|")]
    heading, _, *rows = lines[: 2 + len({r.label for g in whole.groups for r in g.rows})]
    columns = [cell.strip() for cell in heading.strip("|").split("|")]
    assert columns[0] == "framework"
    shown = {}
    for row in rows:
        name, *cells = (cell.strip() for cell in row.strip("|").split("|"))
        shown |= {(name, column): value for column, value in zip(columns[1:], cells, strict=True)}
    first = (whole.groups[0].model, whole.groups[0].dataset)
    for group in whole.groups:
        if (group.model, group.dataset) != first:
            continue
        column = f"{group.protocol}, {group.hardware}, {group.budget}"
        for row in group.rows:
            if row.rank and row.accuracy:
                name = f"{row.label} (b)" if row.baseline else row.label
                key = (name.replace("_", r"\_"), column.replace("_", r"\_"))
                value = f"{row.accuracy.mean:.2f}"
                assert shown[key] == (f"**{value}•**" if row.best else value)


def test_write_leaves_the_old_file_when_it_fails(whole, tmp_path, monkeypatch):
    (tmp_path / "juxtaposition.txt").write_text("old")
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write(whole, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["juxtaposition.txt"]
    assert (tmp_path / "juxtaposition.txt").read_text() == "old"


def test_no_records_make_an_empty_table():
    table = build([])
    assert "0 cells" in table.text()
    assert Page(table.html()).open == []
    assert table.markdown()
    assert table.latex()


def test_no_column_says_again_what_the_best_one_is():
    records = [
        *seeds("uniform", [91.0, 91.2, 91.1]),
        *seeds("haq", [90.0, 90.2, 90.4]),
        *seeds("hawq", [89.0, 89.2]),
    ]
    block = group_block(only(records), FULL)
    column = [row[block.headings.index("vs best")] for row in block.rows]
    assert "vs uniform" not in block.headings
    assert [text[:5] for text in column] == ["", "-0.90", "-2.00"]
    assert "±" not in column[2]  # of two seeds, which are too few to be judged
    assert ">vs uniform<" not in build(records).html()
    other = [*seeds("haq", [92.0, 92.1, 92.3]), *records[:3], *records[6:]]
    assert "vs uniform" in group_block(only(other), FULL).headings


def test_pictures_of_groups_of_one_name_do_not_take_each_others_file():
    records = [make("haq", like=like, notes=learned(True)) for like in (2.5, 3.0)]
    names = [n for n in build(records).files() if n.startswith("learning")]
    assert len(names) == 2


def test_what_is_far_off_is_not_drawn_in_full_and_leaves_no_room():
    most = [84.9, 85.6, 86.4, 86.8, 87.4, 87.5, 87.8]
    assert figures.lowest_drawn([74.6, *most], 92.0) == 84.9
    assert figures.lowest_drawn(most, 92.0) == 84.9
    assert figures.lowest_drawn([90.6, 91.3, 91.6, 91.9, 92.0], 92.0) == 90.6
    assert figures.lowest_drawn([50.0, 90.0, 91.0], 91.0) == 90.0
    assert figures.lowest_drawn([90.0], 92.0) == 90.0
