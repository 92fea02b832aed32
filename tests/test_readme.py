"""The README's and the guides' pages, links, commands and code.

What they say of results is in `test_statements`.
"""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.cli import main as juxtabit
from benchmarks.studies.performance import PERF, Row, page

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
GUIDES = sorted({*(ROOT / "docs").rglob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"})
SHORTER = [
    "framework.images=32", "framework.probes=2", "protocol.calibration_images=32",
    "workers=1", "baselines=false",
]  # fmt: skip
"""What a test adds to the README's search."""


def commands(text):
    """The commands of a page's shell blocks, in order, each on one line."""
    blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def test_the_page_of_speeds_is_that_of_the_rows():
    data = json.loads((ROOT / "results/performance.json").read_text(encoding="utf-8"))
    rows = [Row(**row) for row in data["rows"]]
    notes = (PERF / "changes.md").read_text(encoding="utf-8")
    assert (ROOT / "results/performance.md").read_text() == page(rows, data["machine"], notes)


def test_the_page_of_families_is_that_of_the_run():
    data = json.loads((ROOT / "results/families.json").read_text(encoding="utf-8"))
    works = sum("error" not in row for row in data["families"])
    assert (ROOT / "results/families.md").read_text().count("| yes |") == works


@pytest.mark.parametrize("path", GUIDES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(path):
    text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    targets = re.findall(r"\]\(([^)]+)\)", text) + re.findall(r'src="([^"]+)"', text)
    for target in targets:
        if "://" in target:
            continue
        file, _, anchor = target.partition("#")
        page = (path.parent / file).resolve() if file else path
        assert page.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)", page.read_text(encoding="utf-8"), re.MULTILINE)
            anchors = {re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings}
            assert anchor in anchors, target


def test_every_guide_is_reached_from_the_readme():
    reached, waiting = set(), [ROOT / "README.md"]
    while waiting:
        path = waiting.pop()
        if path in reached or path.suffix != ".md":
            continue
        reached.add(path)
        for target in re.findall(r"\]\(([^)#]+)", path.read_text(encoding="utf-8")):
            if "://" not in target and (path.parent / target).is_file():
                waiting.append((path.parent / target).resolve())
    assert set(GUIDES) - reached == set()


def test_the_readme_is_short_and_begins_with_a_picture():
    assert len(README.splitlines()) <= 120
    assert README.split("\n\n")[1].startswith("<img src=")
    assert len(commands(README)) == 3


def test_the_commands_of_the_readme_run_in_order(tmp_path):
    """As printed, the search made shorter; pip plans the installation and does not make it."""
    shims = {
        "pip": f'cd {ROOT} && exec {sys.executable} -m pip "$@" --dry-run --quiet --no-deps '
        "--no-build-isolation --no-index",
        "juxtabit": f'if [ "$1" = run ]; then set -- "$@" {" ".join(SHORTER)}; fi\n'
        f'exec {sys.executable} -m benchmarks.cli "$@"',
    }
    for name, script in shims.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "home").mkdir()
    where = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    said = []
    for command in commands(README):
        ran = subprocess.run(
            ["sh", "-c", command],
            cwd=tmp_path / "home", env=os.environ | where, capture_output=True, text=True,
            timeout=300,
        )  # fmt: skip
        assert ran.returncode == 0, f"{command}\n{ran.stdout}\n{ran.stderr}"
        said.append(ran.stdout)
    _, searched, shown = said
    assert "1 of 1 cells had to be computed." in searched
    assert "hawq_v3" in shown
    assert "1 cell: 1 done, 0 failed, 0 skipped." in shown


RUNS = [
    (path.relative_to(ROOT).as_posix(), command)
    for path in GUIDES
    for command in commands(path.read_text(encoding="utf-8"))
    if command.startswith("juxtabit run")
]


@pytest.mark.parametrize(("page", "command"), RUNS)
def test_the_searches_of_every_guide_are_configurations(page, command, capsys, monkeypatch):
    """Each key is there; of a sweep, the first of its cells is tried. Launchers are packages of
    their own, which the slow tests run.
    """
    monkeypatch.chdir(ROOT)
    words = [w for w in shlex.split(command)[1:] if not w.startswith(("-m", "hydra"))]
    arguments = [re.sub(r",.*", "", word) for word in words]
    assert juxtabit([arguments[0], "--cfg", *arguments[1:]]) == 0, capsys.readouterr().err


@pytest.mark.slow
def test_the_python_example_runs(capsys):
    guide = (ROOT / "docs/researchers.md").read_text(encoding="utf-8")
    code = guide.split("```python\n")[1].split("```")[0]
    exec(compile(code, "docs/researchers.md", "exec"), {})
    assert "Score(accuracy=" in capsys.readouterr().out
