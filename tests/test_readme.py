"""What the README says comes from the committed records, and its code runs."""

from pathlib import Path

import pytest

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


def test_links_lead_somewhere():
    import re

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
