"""The examples run as they stand, with small numbers."""

import ast
import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
NOTEBOOK = json.loads((EXAMPLES / "notebook.ipynb").read_text(encoding="utf-8"))
SHORT = {"EPOCHS": 2, "EPISODES": 3, "GENERATIONS": 2}
"""Numbers of the notebook, shortened."""


def code_cells():
    return ["".join(c["source"]) for c in NOTEBOOK["cells"] if c["cell_type"] == "code"]


@pytest.mark.slow
def test_the_plugin_keeps_the_contract():
    folder = EXAMPLES / "plugin"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--rootdir", ".", "."],
        cwd=folder, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) >= 20  # the contract's and its own


@pytest.mark.slow
def test_the_notebook_runs_in_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cells = code_cells()
    short = ", ".join(map(str, SHORT.values()))
    names = ", ".join(SHORT)
    (line,) = (x for x in cells[0].splitlines() if x.startswith(f"{names} = "))
    cells[0] = cells[0].replace(line, f"{names} = {short}")
    space = {}
    for number, source in enumerate(cells, 1):
        exec(compile(ast.parse(source), f"<cell {number}>", "exec"), space)
    assert {"haq", "hawq_v3", "mohaq", "uniform"} <= set(space["table"].index)
    assert (space["table"].status == "done").all()
    assert (space["table"].of_budget <= 1 + 1e-9).all()
    onnx.checker.check_model(str(tmp_path / "digits.onnx"))


def test_the_notebook_is_kept_with_the_output_of_a_run():
    assert (NOTEBOOK["nbformat"], NOTEBOOK["nbformat_minor"]) == (4, 5)
    cells = [c for c in NOTEBOOK["cells"] if c["cell_type"] == "code"]
    assert len(cells) == 5
    assert [c["execution_count"] for c in cells] == [1, 2, 3, 4, 5]
    assert all(c["outputs"] for c in cells[2:])
    assert len({c["id"] for c in NOTEBOOK["cells"]}) == len(NOTEBOOK["cells"])


def test_the_practitioners_script_writes_a_checked_file(tmp_path, monkeypatch, capsys):
    out = tmp_path / "net.onnx"
    small = ["--episodes", "2", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["practitioner.py", *small])
    runpy.run_path(str(EXAMPLES / "practitioner.py"), run_name="__main__")
    shown = capsys.readouterr().out
    assert "Sequential | own data | size (model) | ptq | like=3" in shown
    assert f"wrote {out}: {out.stat().st_size} bytes" in shown
    onnx.checker.check_model(str(out))


@pytest.mark.parametrize("path", sorted((EXAMPLES / "toolkits").glob("*.py")), ids=lambda p: p.stem)
def test_the_toolkits_scripts_use_what_the_suite_has(path):
    """Their toolkits are not installed here: what they take from this project is looked up."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    imported = [
        (node.module, alias.name)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        and node.module.partition(".")[0] in ("benchmarks", "frameworks")
        for alias in node.names
    ]
    for module, name in imported:
        assert hasattr(__import__(module, fromlist=[name]), name), f"{module}.{name}"
    assert imported or path.stem != "common"
