"""What the toolkits' scripts share, and that `framework=given` reads what they write."""

import json
import sys
from pathlib import Path

import pytest

from benchmarks.suite.config import cell_of, composed
from benchmarks.suite.setting import check

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "toolkits"


@pytest.fixture
def task(monkeypatch, tmp_path, cache_folder):
    monkeypatch.syspath_prepend(str(FOLDER))
    asked = ["--dataset", "digits", "--like", "3", "--out", str(tmp_path / "mct.json")]
    monkeypatch.setattr(sys, "argv", ["run_mct.py", *asked])
    monkeypatch.setenv("JUXTABIT_CACHE", str(cache_folder))
    from common import task

    yield task("size")
    sys.modules.pop("common")


def test_a_written_policy_is_one_that_the_suite_scores(task):
    bits = {layer.name: (4, 8) for layer in task.layers}
    task.write("torch", bits, budget=task.budget.label)
    data = json.loads(task.out.read_text())
    assert data["toolkit"] == "torch"
    assert data["version"]
    cell = cell_of(composed(["framework=given", f"framework.policy={task.out}", "dataset=digits"]))
    check(cell)
    assert cell["framework"]["label"] == "mct"


def test_the_task_is_the_suites(task):
    assert task.budget.metric == "size"
    assert task.images(5).shape == (5, *task.ground.splits.input_shape)
    assert not task.network.training
    assert task.layers[0].name == "conv1"
