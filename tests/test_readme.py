"""The README's pages, links and code; what it says of results is in `test_statements`."""

import json
import re
from pathlib import Path

import pytest

from benchmarks.studies.performance import PERF, Row, page

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_page_of_speeds_is_that_of_the_rows():
    data = json.loads((ROOT / "results/performance.json").read_text(encoding="utf-8"))
    rows = [Row(**row) for row in data["rows"]]
    notes = (PERF / "changes.md").read_text(encoding="utf-8")
    assert (ROOT / "results/performance.md").read_text() == page(rows, data["machine"], notes)


def test_the_page_of_families_is_that_of_the_run():
    data = json.loads((ROOT / "results/families.json").read_text(encoding="utf-8"))
    works = sum("error" not in row for row in data["families"])
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
