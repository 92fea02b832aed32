"""What the README says comes from the committed records, and its code runs."""

import json
import re
from pathlib import Path

import pytest

from benchmarks.performance import PERF, Row, page
from benchmarks.store import find_records
from benchmarks.table import build

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
RECORDS = ROOT / "results" / "fashion_mnist"


def test_the_results_are_those_of_the_records():
    table = build(find_records(RECORDS)).summary()
    rows = [line for line in table.splitlines() if line.startswith("|")]
    assert len(rows) > 10
    for row in rows:
        assert row in README


@pytest.mark.parametrize(
    ("suite", "said"),
    [
        ("hardware", r"HAQ's policies (\d+ of \d+) .*\n.*HAWQ-V3's (\d+ of \d+)\."),
        ("hardware_fashion", r"There (\d+ of \d+) of HAQ's policies and (\d+ of \d+) of HAWQ-V3's"),
    ],
)
def test_policies_over_other_budgets_are_those_of_the_transfer_tables(suite, said):
    text = (ROOT / "results" / suite / "transfer.md").read_text(encoding="utf-8")
    found = re.search(said, README)
    assert found
    for heading, count in zip(("### haq:", r"### hawq\_v3:"), found.groups(), strict=True):
        section = text.split(heading)[1].split("###")[0]
        assert f"- {count} policies are over the budget" in section


def test_the_speeds_and_the_page_are_those_of_the_rows():
    data = json.loads((ROOT / "results/performance.json").read_text(encoding="utf-8"))
    rows = [Row(**row) for row in data["rows"]]
    notes = (PERF / "changes.md").read_text(encoding="utf-8")
    assert (ROOT / "results/performance.md").read_text() == page(rows, data["machine"], notes)
    table = README.split("## Speed")[1].split("\n\nThe last line")[0]
    said = [line.split("|")[2].strip() for line in table.splitlines() if line.startswith("| ")][1:]
    ratio = {row.name: row.ratio for row in rows}
    step = "training_step_with_learned_ranges_over_the_float_step"
    peer = "training_step_over_that_of_a_peer"
    peers = ("torch", "torchao with learned ranges", "brevitas", "nncf")
    searches = ("greedy", "mohaq", "haq", "random")
    assert said == [
        "; ".join(f"{ratio[f'{step}[{threads}]']:.2f}" for threads in (1, 2)),
        "; ".join(f"{ratio[f'{peer}[{name}]']:.2f}" for name in peers),
        f"{ratio['search_step_of_edmips_over_the_training_step']:.2f}",
        f"{ratio['search_step_of_dnas_over_training_its_branches']:.2f}",
        "; ".join(
            f"{ratio[f'traces_over_a_loop_with_pyhessian[{net}]']:.2f}"
            for net in ("resnet8", "resnet20")
        ),
        "; ".join(
            f"{ratio[f'exact_choice[{name}-53-under 0.1 s]']:.2f}" for name in ("scipy", "pulp")
        ),
        ", ".join(f"{ratio[f'{name}_speedup']:.1f}" for name in searches),
    ]


def test_the_families_are_those_of_the_run():
    data = json.loads((ROOT / "results/families.json").read_text(encoding="utf-8"))
    works = sum("error" not in row for row in data["families"])
    assert f"[{works} of {len(data['families'])} families]" in README
    assert (ROOT / "results/families.md").read_text().count("| yes |") == works


def test_links_lead_somewhere():
    targets = re.findall(r"\]\(([^)#]+)\)", README) + re.findall(r'src="([^"]+)"', README)
    local = [target for target in targets if "://" not in target]
    assert local
    for target in local:
        assert (ROOT / target).exists(), target


@pytest.mark.slow
def test_the_python_example_runs(capsys):
    code = README.split("```python\n")[1].split("```")[0]
    exec(compile(code, "README.md", "exec"), {})
    assert "Score(accuracy=" in capsys.readouterr().out
