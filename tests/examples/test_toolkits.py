"""What the toolkits' scripts share, and that `framework=given` reads what they write."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

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


def test_a_policy_is_within_the_budget_or_not(task):
    assert task.within({layer.name: (2, 8) for layer in task.layers})
    assert not task.within({layer.name: (8, 8) for layer in task.layers})
    with task.kept() as folder:
        assert folder.is_dir()
    assert not folder.exists()


def test_images_without_labels_have_the_networks_answers(task):
    task = replace(task, protocol={"objective": "kl"})
    split = task.labelled(7)
    ((x, y),) = split.batches(7)
    assert torch.equal(y, task.network(x).argmax(1))


def test_the_task_is_the_suites(task):
    assert task.budget.metric == "size"
    assert task.images(5).shape == (5, *task.ground.splits.input_shape)
    assert not task.network.training
    assert task.layers[0].name == "conv1"
