"""What the README and the guides say of results is what the records give, and nothing else."""

import math
from pathlib import Path
from statistics import fmean, variance

import pytest
from scipy import stats

from benchmarks.cli import main as juxtabit
from benchmarks.records.store import find_records
from benchmarks.report.numbers.moderation import prior
from benchmarks.studies.statements import measures
from benchmarks.studies.statements.__main__ import main
from benchmarks.studies.statements.expressions import BadExpression, evaluate
from benchmarks.studies.statements.page import FILE, Pages, Statement, read

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def readme():
    return read()


def test_the_readme_says_what_the_records_give(readme):
    """Where this fails, ``python -m benchmarks.studies.statements --write`` mends the numbers."""
    assert readme.faults() == []


def test_there_is_something_to_compare(readme):
    numbers = [shown for statement in readme.statements for _, _, shown in statement.numbers()]
    assert len(numbers) > 30
    assert len(readme.tables) == 3
    assert all(why.strip() for _, why in readme.untied)


@pytest.mark.slow
@pytest.mark.parametrize("suite", ["hardware", "hardware_fashion"])
def test_transfer_pages_are_those_of_the_records(suite, capsys):
    assert juxtabit(["transfer", f"results/{suite}", "--format", "markdown"]) == 0
    assert capsys.readouterr().out == (ROOT / f"results/{suite}/transfer.md").read_text()


# --- the mechanism


def page(tmp_path, text, *statements, settings=(), untied=(), tables=(), names=None):
    path = tmp_path / "page.md"
    path.write_text(text)
    made = tuple(Statement(says, tuple(holds), names or {}) for says, holds in statements)
    return Pages((path,), made, tables, settings, untied)


COST = ("costs {1 + 0.24:.1f} points", ())


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("It costs 1.2 points.", None),
        ("It costs 1.2\n  points.", None),
        ("It costs 1.3 points.", "no page says: costs 1.2 points"),
        ("It costs nothing.", "no page says: costs 1.2 points"),
        ("It costs 1.2 points, or 7.", "a number that nothing accounts for: It ..., or 7."),
        ("It costs 1.2 points. ResNet-8 at W4A4 and `x = 3` ([a](b4.md), 1811.08886).", None),
        ("It costs 1.2 points.\n\n```sh\nsleep 5\n```\n<!-- 6 -->", None),
        ("It costs 1.2 points.\n\n| a |\n|--:|\n| 3 |", "nothing accounts for: It .... | a |"),
    ],
)
def test_every_number_of_a_page_is_one_of_the_records(tmp_path, text, fault):
    faults = page(tmp_path, text, COST).faults()
    assert not faults if fault is None else any(fault in found for found in faults), faults


def test_words_that_compare_are_tied_as_well(tmp_path):
    assert page(tmp_path, "A leads.", ("A leads.", ["2 > 1"])).faults() == []
    for untrue in ("1 > 2", "1"):
        assert page(tmp_path, "A leads.", ("A leads.", [untrue])).faults() == [
            f"does not hold: {untrue}"
        ]


def test_settings_and_debts_must_be_in_the_page(tmp_path):
    text = "With 8 bit, 40 evaluations."
    some = {"settings": ("With 8 bit",), "untied": (("40 evaluations", "why"),)}
    assert page(tmp_path, text, **some).faults() == []
    assert page(tmp_path, "Nothing.", **some).faults() == [
        "no page has the phrase: With 8 bit",
        "no page has the phrase: 40 evaluations",
    ]
    table = "| bits |\n|--:|\n| 8 |\n\nEnd."
    assert page(tmp_path, table, settings=("| bits",)).faults() == []


def test_numbers_and_tables_are_brought_up_to_date(tmp_path, monkeypatch):
    class Table:
        def summary(self):
            return "**x**\n\n| f | ptq, a | ptq, b |\n|:--|--:|--:|\n| haq | 1.00 | 2.00 |\n"

    monkeypatch.setattr("benchmarks.studies.statements.page.table", lambda folder: Table())
    old = "It costs 9.9\n  points.\n\n| f | a | b |\n|:--|--:|--:|\n| haq | 1.00 | 3.00 |\n\n-9 %."
    share = ("{-0.5:.0f} %", ())
    before = page(tmp_path, old, COST, share, tables=(("| f | a", "x"),))
    assert len(before.faults()) == 5
    (new,) = before.written().values()
    assert new == old.replace("9.9", "1.2").replace("3.00", "2.00").replace("-9", "-0")
    assert page(tmp_path, new, COST, share, tables=(("| f | a", "x"),)).faults() == []
    with pytest.raises(LookupError, match=r"0 times the words of: costs 1\.2 points"):
        page(tmp_path, "It is free.", COST).written()
    with pytest.raises(LookupError, match="2 times the words of"):
        page(tmp_path, "It costs 1 points, or costs 2 points.", COST).written()


def test_pages_are_read_and_written_together(tmp_path):
    first, second = tmp_path / "first.md", tmp_path / "second.md"
    first.write_text("It costs 9 points.\n\n| a |\n|--:|\n")
    second.write_text("| b |\n|--:|\n\nOr 7.\n")
    made = Pages((first, second), (Statement(*COST, {}),), (), (), ())
    assert len(made.faults()) == 3
    assert made.written() == {
        first: "It costs 1.2 points.\n\n| a |\n|--:|\n",
        second: "| b |\n|--:|\n\nOr 7.\n",
    }


def test_the_command_prints_numbers_and_writes_them(tmp_path, monkeypatch, capsys):
    path, file = tmp_path / "page.md", tmp_path / "s.yaml"
    path.write_text("It is 0.1 times\nas fast.")
    file.write_text(
        f"pages: [{path}]\nstatements:\n  - says: It is {{families('all') / 49:.1f}} times as fast."
    )
    assert main([str(file)]) == 1
    said = capsys.readouterr()
    assert "It is 2.0 times as fast.\n    families('all') / 49 = 2.0" in said.out
    assert "s.yaml: no page says: It is 2.0 times" in said.err
    assert main([str(file), "--check", "--write"]) == 0
    assert path.read_text() == "It is 2.0 times\nas fast."
    assert capsys.readouterr().out == ""


def test_a_group_that_is_not_there_is_named(tmp_path):
    text = FILE.read_text().replace("budget: like=3}", "budget: like=99}", 1)
    (tmp_path / "s.yaml").write_text(text)
    with pytest.raises(BadExpression, match=r"0 groups of results/fashion_mnist have .*like=99"):
        read(tmp_path / "s.yaml")


# --- expressions


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1 + 2 * 3 - 4 / 2", 5),
        ("-(1 - 3)", 2),
        ("max(a, 2) > 2 > 1", True),
        ("not a == 3", False),
        ("half(a)", 1.5),
        ("half(half(a) + 1)", 1.25),
    ],
)
def test_expressions_have_values(text, value):
    assert evaluate(text, {"half": lambda x: x / 2}, {"a": 3}) == value


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os')",
        "half.__globals__",
        "[x for x in a]",
        "(lambda: 1)()",
        "half(x=1)",
        "a if a else 1",
        "a and 1",
        "1 in a",
        "'%d' % 1",
        "2 ** 9",
        "None",
        "b",
        "1 +",
        "1 / 0",
        "half('1')",
    ],
)
def test_anything_else_is_refused(text):
    with pytest.raises(BadExpression, match=r".+"):
        evaluate(text, {"half": lambda x: x / 2}, {"a": 3})


# --- measures, against the records themselves


@pytest.fixture(scope="module")
def tight():
    axes = {"protocol": "ptq", "hardware": "bops", "budget": "like=2.4"}
    return measures.group("results/fashion_mnist", **axes)


@pytest.fixture(scope="module")
def finals():
    """Final test accuracies of the same cells, by framework and seed, read plainly."""
    found = {}
    for record in find_records(ROOT / "results/fashion_mnist"):
        cell = record.cell
        where = cell["protocol"]["name"], cell["hardware"]["name"], cell["budget"]["like"]
        if record.status == "done" and where == ("ptq", "bops", 2.4) and record.budget["within"]:
            found.setdefault(cell["framework"]["name"], {})[cell["seed"]] = record
    return {
        name: [records[seed].accuracy["final"] for seed in sorted(records)]
        for name, records in found.items()
    }


def test_means_and_differences_are_those_of_the_records(tight, finals):
    means = {name: sum(values) / len(values) for name, values in finals.items()}
    assert len(means) > 10
    for name, value in means.items():
        assert measures.mean(name, tight) == pytest.approx(value)
    baselines = {k for k in means if k in ("uniform", "greedy") or k.startswith("random")}
    methods = {k: v for k, v in means.items() if k not in baselines}
    assert measures.best(tight) == pytest.approx(max(methods.values()))
    assert measures.worst(tight, "all") == pytest.approx(min(means.values()))
    assert measures.best(tight, "baselines") == pytest.approx(max(means[k] for k in baselines))
    assert measures.gain("haq", "uniform", tight) == pytest.approx(means["haq"] - means["uniform"])
    assert measures.drop("haq", tight) == pytest.approx(
        measures.float_accuracy(tight) - means["haq"]
    )
    assert measures.ahead("haq", tight) == sum(means["haq"] > v for v in means.values())


def test_who_is_told_apart_is_corrected_for_the_number_of_comparisons(tight, finals):
    rival, count = "uniform", 3
    differences = {
        name: [a - b for a, b in zip(values, finals[rival], strict=True)]
        for name, values in finals.items()
        if name != rival
    }
    spread = {name: variance(each) for name, each in differences.items()}
    known = prior(list(spread.values()), [count - 1] * len(spread))
    p = {}
    for name, each in differences.items():
        moderated, freedom = known.moderated(spread[name], count - 1)
        p[name] = 2 * stats.t.sf(abs(fmean(each)) / math.sqrt(moderated / count), freedom)
    order, told = sorted(p, key=p.get), set()
    for place, name in enumerate(order):
        if p[name] > 0.05 / (len(p) - place):
            break
        told.add(name)
    assert {name for name in p if measures.told_apart(name, rival, tight)} == told
    assert {name for name in p if p[name] < 0.05} - told, "the correction matters here"


def test_numbers_of_pages_are_found_by_row_and_column():
    page = "results/fashion_mnist/sensitivity.md"
    text = (ROOT / page).read_text()
    row = next(line for line in text.splitlines() if line.startswith("| weight | 2 |"))
    assert measures.entry(page, "weight | 2", "rank correlation") == float(row.split("|")[5])
    with pytest.raises(LookupError, match=r"0 entries in row 'weight . 9'"):
        measures.entry(page, "weight | 9", "rank correlation")
    with pytest.raises(LookupError, match="0 entries"):
        measures.entry(page, "weight | 2", "nothing")
    page = "results/oracle/resnet8-equal/study.md"
    row = "| layer_kl_refined |"
    lines = (ROOT / page).read_text().splitlines()
    seen = [line.split("|")[6].split()[0] for line in lines if line.startswith(row)][:3]
    budgets = ("**like=2.4**", "**like=3**", "**like=3.5**")
    for start, wanted in zip(budgets, seen, strict=True):
        assert measures.entry(page, "layer_kl_refined", "returned", start) == float(wanted)
    page, column = "results/oracle/resnet8-weights/study.md", "returned"
    lines = (ROOT / page).read_text().splitlines()
    seen = [float(x.split("|")[2].split()[0]) for x in lines if x.startswith("| limpq | ")]
    for start, wanted in zip(budgets, seen[-3:], strict=True):
        assert measures.entry(page, "limpq", column, f"### scored > {start}") == wanted
    with pytest.raises(LookupError, match="3 entries"):
        measures.entry(page, "layer_kl_refined", "returned")
    with pytest.raises(LookupError, match="no line begins"):
        measures.entry(page, "layer_kl_refined", "returned", "**like=9**")


def test_measures_that_are_not_there_are_refused(tight):
    with pytest.raises(LookupError, match=r"nobody has 0 results in .*; there are .*haq"):
        measures.mean("nobody", tight)
    with pytest.raises(LookupError, match="no section of nobody"):
        measures.elsewhere("nobody", "over", "results/hardware/transfer.md")


def test_cells_are_counted_by_status():
    records = find_records(ROOT / "results/architectures")
    for status in ("done", "skipped", "failed"):
        assert measures.cells("results/architectures", status) == sum(
            record.status == status for record in records
        )
    over = [r for r in records if r.status == "done" and r.costs["bops"] > r.budget["limit"]]
    assert measures.cells("results/architectures", "over") == len(over) > 0
    assert measures.searched("random", "policies", measures.group(
        "results/architectures", model="test_vit")) == 100  # fmt: skip


TABLE = "| framework | ptq, size, like=4 | ptq, bops, like=3 |"


def pages_with(tmp_path, text):
    page = tmp_path / "page.md"
    page.write_text(text)
    return page, Pages((page,), (), ((TABLE, "results/fashion_mnist"),), (), ())


def test_a_table_has_the_columns_that_the_page_names(tmp_path):
    page, pages = pages_with(tmp_path, f"{TABLE}\n|:--|--:|--:|\n| old | 1 | 2 |\n")
    assert pages.faults()
    made = pages.written()[page]
    assert made.splitlines()[:2] == [TABLE, "|:--|--:|--:|"]
    (row,) = (line for line in made.splitlines() if line.startswith("| haq |"))
    ours = measures.group("results/fashion_mnist", protocol="ptq", hardware="size", budget="like=4")
    assert f"{measures.mean('haq', ours):.2f}" in row.split("|")[2]
    assert "random\\_retrained" not in made  # it is of the columns left out
    assert pages_with(tmp_path, made)[1].faults() == []


def test_a_table_that_is_gone_is_a_fault(tmp_path):
    _, pages = pages_with(tmp_path, "Nothing.\n")
    assert pages.faults() == [f"no page has the table {TABLE!r}"]


def test_columns_that_a_summary_has_not_are_an_error(tmp_path):
    head = TABLE + " ptq, size, like=99 |"
    _, pages = pages_with(tmp_path, f"{head}\n|:--|--:|--:|--:|\n")
    with pytest.raises(LookupError, match="its summary has not the columns"):
        pages.written()
