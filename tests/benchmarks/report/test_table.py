"""The table, from made-up records: the schema of real ones, numbers from a formula."""

import csv
import io
import itertools
import math
import os
import re
import subprocess
import sys
from html import unescape
from html.parser import HTMLParser
from itertools import product
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.records.record import Record, digest
from benchmarks.records.store import write_json
from benchmarks.report.formats import reported
from benchmarks.report.formats.blocks import FULL, group_block
from benchmarks.report.numbers import format as show
from benchmarks.report.numbers.cells import Cell
from benchmarks.report.numbers.marks import marks
from benchmarks.report.numbers.rows import Row
from benchmarks.report.pictures import curves, figures, plot
from benchmarks.report.pictures.convergence import mean_curve
from benchmarks.report.table import build, write
from frameworks import Learning

ROOT = Path(__file__).resolve().parents[3]
LIMITS = {2.5: 20_000.0, 3.0: 24_000.0, 4.0: 32_000.0}
INT8 = 64_000.0
FLOAT = 91.45
METHODS = {
    # name: (points above uniform, policies, images forward, images backward, seconds)
    "uniform": (0.0, 0, 512, 0, 0.3),
    "random": (0.4, 100, 100_000, 0, 11.0),
    "greedy": (0.8, 80, 80_000, 0, 9.0),
    "haq": (1.1, 600, 600_000, 120_000, 95.0),
    "hawq": (0.6, 0, 20_480, 40_960, 4.0),
    "hawq_v3": (1.0, 0, 20_480, 40_960, 5.0),
    "dnas": (0.2, 1, 900_000, 900_000, 240.0),
    "edmips": (0.9, 1, 400_000, 400_000, 130.0),
    "autoq": (0.7, 300, 300_000, 0, 61.0),
}
CATEGORY = {
    "haq": "reinforcement",
    "autoq": "reinforcement",
    "hawq": "heuristic",
    "hawq_v3": "heuristic",
    "dnas": "gradient",
    "edmips": "gradient",
}


def card(name):
    return {
        "title": f"The paper of {name}",
        "year": 2019,
        "category": CATEGORY.get(name, "baseline" if name in METHODS else "gradient"),
        "quantizer": "mse",
        "granularity": "kernel" if name == "autoq" else "layer",
        "searches": ["weight", "act"],
        "needs": ["valid"],
        "arxiv": "1811.08886" if name == "haq" else "",
        "hardware_aware": name in ("haq", "autoq"),
        "deviations": [],
    }


def curve(policies, images, seconds, final, rng):
    """What a search would have returned over time, up to its cost."""
    count = 12 if policies > 1 else 3
    gaps = np.sort(rng.exponential(2.0, count))[::-1]
    gaps -= gaps[-1]
    return [
        {
            "policies": math.ceil(policies * (i + 1) / count),
            "images": math.ceil(images * (i + 1) / count),
            "seconds": seconds * (i + 1) / count,
            "objective": final - float(gap),
        }
        for i, gap in enumerate(gaps)
    ]


def make(
    framework="haq",
    *,
    seed=0,
    like=3.0,
    model="resnet8",
    dataset="fashion_mnist",
    hardware="size",
    protocol="ptq",
    accuracy=None,
    status="done",
    within=True,
    time="2026-01-01T00:00:00Z",
    code="1",
    params=None,
    **fields,
):
    """One record; ``accuracy`` is the final one."""
    cell = {
        "framework": {"name": framework, **(params or {})},
        "model": {"name": model, "pretrained": False, "checkpoint": None},
        "dataset": {"name": dataset, "root": None, "workers": 0, "valid": 5000},
        "hardware": {"name": hardware},
        "protocol": {"name": protocol, "weight_bits": [2, 3, 4, 5, 6, 8]},
        "budget": {"like": like, "ratio": None, "limit": None, "metric": None},
        "seed": seed,
    }
    record = Record(key=digest([cell, code]), cell=cell, status=status, card=card(framework))
    record.environment = {"time": time}
    if status == "done":
        _finish(record, framework, seed, like, hardware, protocol, accuracy, within)
    elif status == "failed":
        record.error = "Traceback (most recent call last):\n  File x\nRuntimeError: it broke"
    else:
        record.reason = "the model has no BatchNorm"
    for name, value in fields.items():
        setattr(record, name, value)
    return Record.from_json(record.to_json())


def _finish(record, framework, seed, like, hardware, protocol, accuracy, within):
    gain, policies, forward, backward, seconds = METHODS.get(framework, METHODS["haq"])
    rng = np.random.default_rng([seed, int(10 * like), sum(map(ord, framework + protocol))])
    base = {2.5: 86.0, 3.0: 89.0, 4.0: 90.6}[like] + {"ptq": 0, "controlled": 0.6}.get(
        protocol, 0.3
    )
    if accuracy is None:
        accuracy = min(base + gain * (4.4 - like) + float(rng.normal(0, 0.12)), 100.0)
    limit = LIMITS[like] * (1 if hardware == "size" else 5_000)
    cost = limit * ((0.90 if framework == "uniform" else 0.985) if within else 1.12)
    trains = protocol != "ptq"
    record.budget = {
        "metric": hardware,
        "limit": limit,
        "unit": "bytes" if hardware == "size" else "bit operations",
        "label": f"like={like:g}",
        "within": within,
        "kind": "model",
    }
    record.policy = {"conv1": {"weight": 8, "act": 8}, "conv2": {"weight": [3, 4], "act": 8}}
    record.bits = {"weight": like + 0.1, "act": 8.0}
    record.costs = {hardware: cost} | ({"size": cost / 5_000} if hardware != "size" else {})
    record.int8_costs = {hardware: INT8 * (1 if hardware == "size" else 5_000)}
    record.accuracy = {
        "float": FLOAT,
        "valid": accuracy - 0.2,
        "ptq": accuracy - (1.0 if trains else 0.0),
        "fine_tuned": accuracy if trains else None,
        "final": accuracy,
    }
    record.search = {
        "policies": policies,
        "images_forward": forward,
        "images_backward": backward,
        "seconds": seconds * (1 + 0.1 * seed),
        "peak_memory": 300 * 2**20 + forward * 100,
    }
    record.curve = curve(policies, forward + backward, seconds, accuracy - 0.2, rng)
    record.data = {"dataset": "d0", "checkpoint": "c0"}


def suite(seeds=3, protocols=("ptq", "controlled"), hardware=("size", "bops"), likes=(2.5, 3.0)):
    """Several groups with all that can happen in them."""
    records = [
        make(name, seed=seed, like=like, protocol=protocol, hardware=target)
        for protocol, target, like, name, seed in product(
            protocols, hardware, likes, METHODS, range(seeds)
        )
    ]
    front = [
        {"policy": {}, "objectives": {"error": 8 + 6 / k, "size": 1000.0 * k}} for k in range(1, 9)
    ]
    records += [
        make("mohaq", seed=seed, like=3.0, front=front, card=card("mohaq")) for seed in range(seeds)
    ]
    records += [make("broken", status="failed"), make("broken", seed=1, status="failed")]
    records += [make("zeroq", seed=seed, status="skipped") for seed in range(seeds)]
    records += [make("penalty", seed=0, within=False), make("penalty", seed=1)]
    records += [make("penalty", seed=2, like=2.5, within=False)]
    records += [make("haq", code="0", time="2025-06-01T00:00:00Z", accuracy=50.0)]
    return records


# --- the tests -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole():
    return build(suite())


def only(records, **options):
    """The one group of some records."""
    table = build(records, **options)
    assert len(table.groups) == 1
    return table.groups[0]


def seeds(name, accuracies, **options):
    return [make(name, seed=i, accuracy=a, **options) for i, a in enumerate(accuracies)]


def rows_of(table, half="measured"):
    return [r for r in csv.DictReader(io.StringIO(table.csv())) if r["half"] == half]


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


class Page(HTMLParser):
    """Collects what a page refers to, and checks that its tags are balanced."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.ids, self.links = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        attributes = dict(attrs)
        self.ids += [attributes["id"]] if "id" in attributes else []
        self.links += [v for k, v in attrs if k in ("src", "href", "xlink:href", "action")]
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


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


def test_committed_reported_numbers_are_verified_and_complete():
    numbers = reported.read(ROOT / "results" / "reported.csv")
    known = {"haq", "hawq", "hawq_v2", "hawq_v3", "dnas", "edmips", "autoq", "mpqco"}
    known |= {"limpq", "ompq", "practical_ptq", "adq", "apq", "memory_driven", "adaquant_ip"}
    known |= {"releq", "adrl", "bsq", "bayesian_bits", "zeroq", "mohaq", "bmpq"}
    known |= {"bp_nas", "gmpq", "fracbits", "fracbits_kernel", "mixed_dnn", "waveq", "sdq"}
    known |= {"csq", "hmq", "djpq"}
    assert {n.framework for n in numbers} == known
    assert {n.mark for n in numbers} <= {"verified", "verified-2nd"}
    top1 = {
        (n.model, n.setting): (n.value, n.float_value)
        for n in numbers
        if n.framework == "hawq_v3" and n.metric == "top-1 (%)"
    }
    assert top1["resnet18", "W=A in 4, 8; f=0.5 of BOPs"] == (70.22, 71.47)
    assert top1["resnet50", "uniform W4A4"] == (74.24, 77.72)
    points = [(n.framework, n.model, n.dataset, n.setting, n.source, n.metric) for n in numbers]
    assert len(points) == len(set(points))


def test_reported_half_is_optional_and_limited_to_what_was_measured(tmp_path):
    nothing = tmp_path / "none.csv"
    nothing.write_text(",".join(reported.COLUMNS) + "\n")
    assert "As published" not in build([make()], nothing).text()
    assert {n.framework for n in build([make("haq")]).reported} == {"haq"}


def test_a_framework_without_published_numbers_stands_beside_the_others():
    table = build([*seeds("haq", [90.0] * 3), *seeds("spos", [89.0] * 3), *seeds("greedy", [88.0])])
    names = {n.framework for n in table.reported}
    assert "haq" in names
    assert "spos" not in names
    text = table.text().split("Published beside measured")[1]
    lines = [line.split() for line in text.splitlines() if line.startswith("  ")]
    assert ["spos", "resnet8", "fashion_mnist", "-2.45"] in lines
    assert ["haq", "resnet8", "fashion_mnist", "-1.45"] in lines
    assert any(line[:2] == ["haq", "resnet50"] and len(line) > 4 for line in lines)
    assert not any("greedy" in line for line in lines)


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


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("haq,m,d,top-1,s,much,,README,verified", "line 2: could not convert"),
        ("haq,m,d,top-1,s,1,,README,memory", "mark 'memory' is none of"),
        ("haq,m,d,top-1,s,1,,,verified", "without a source"),
        ("haq,m,d,top-1,s,1", "not 9 fields"),
    ],
)
def test_bad_reported_lines_are_refused(tmp_path, line, fault):
    path = tmp_path / "reported.csv"
    path.write_text(",".join(reported.COLUMNS) + f"\n{line}\n")
    with pytest.raises(ValueError, match=fault):
        build([], path)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (999.96, "1k"), (29_250, "29.25k"), (1.6e9, "1.6G"), (0.5914, "0.5914")],
)
def test_prefixes(value, text):
    assert show.si(value) == text


def test_other_number_formats():
    assert show.signed(-0.001) == "0.00"
    assert [show.fixed(x) for x in (-0.001, -0.0, 0.004, -1.239)] == [*["0.00"] * 3, "-1.24"]
    assert show.signed(0.5) == "+0.50"
    assert [show.seconds(s) for s in (0.004, 3.25, 119.0, 600.0, 7300.0)] == [
        "0.004 s",
        "3.25 s",
        "119 s",
        "10 min",
        "2.03 h",
    ]
    assert show.memory(3 * 2**29) == "1.5 GiB"
    assert show.limit(29250.0, "bytes") == "29,250 bytes"


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6))
def test_ticks_are_few_and_inside(low, span):
    found = plot.ticks(low, low + span, 5)
    assert len(found) <= 6
    assert all(low - span * 1e-6 <= t <= low + span * 1.000001 for t in found)


@given(st.lists(st.floats(0, 400), min_size=1, max_size=12))
def test_labels_are_spread_in_order(positions):
    placed = plot.spread(positions, 10)
    order = sorted(range(len(positions)), key=lambda i: positions[i])
    gaps = [placed[j] - placed[i] for i, j in itertools.pairwise(order)]
    assert all(gap > 5 for gap in gaps)


# --- what searches say of themselves -----------------------------------------------------------


def learned(improved, objective="reward", curve=(0.1, 0.2, 0.4), **more):
    found = Learning(objective, list(curve)).to_json()
    return {"learning": {**found, "improved": improved, "p": 0.01 if improved else 0.4, **more}}


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


def test_pictures_of_groups_of_one_name_do_not_take_each_others_file(said):
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
