"""Cells whose searches do without labels."""

import pytest
import torch

from benchmarks.report.table import build
from benchmarks.suite.assets import entry_text, splits_of
from benchmarks.suite.cell import Run, compute
from benchmarks.suite.config import cell_of, composed
from benchmarks.suite.identity import BadCell, key_of
from benchmarks.suite.setting import check
from frameworks import TensorSplit, measure

SMALL = ("protocol.calibration_images=32", "protocol.valid_images=60", "budget.like=3")


def cell(*overrides):
    return cell_of(composed(["framework=uniform", *SMALL, *overrides]))


@pytest.mark.parametrize("objective", ["agreement", "kl"])
def test_no_label_is_looked_at(objective, monkeypatch):
    """The labels of all three splits, turned round, change nothing."""
    method = ["framework=hawq", "framework.images=16", "framework.iterations=3"]
    asked = cell(f"protocol.objective={objective}", *method)
    splits = splits_of(entry_text(asked["dataset"]))
    first = compute(asked, key_of(asked))
    assert first.status == "done", first.error

    def turned(split):
        return TensorSplit(split.x, 9 - split.y)

    original = Run.__init__

    def other(self, *args, **kwargs):
        original(self, *args, **kwargs)
        parts = {p: turned(getattr(splits, p)) for p in ("train", "valid", "test")}
        self.objective.splits = type(splits)(**parts, classes=10, input_shape=splits.input_shape)

    monkeypatch.setattr(Run, "__init__", other)
    again = compute(asked, key_of(asked))
    assert (again.policy, again.accuracy) == (first.policy, first.accuracy)


def test_numbers_are_those_of_the_networks():
    run = Run.aside(cell("protocol.objective=kl"))
    run.go()
    accuracy, x = run.record.accuracy, run.splits.test.x
    with torch.no_grad():
        v, z = run.network(x), run.final(x)
    same = 100 * float((v.argmax(1) == z.argmax(1)).float().mean())
    apart = float((v.softmax(1) * (v.log_softmax(1) - z.log_softmax(1))).sum(1).mean())
    assert accuracy["float"] == 100
    assert accuracy["final"] == accuracy["ptq"] == pytest.approx(same)
    assert accuracy["kl"] == pytest.approx(apart, rel=1e-4, abs=1e-7)
    plain = Run.aside(cell())
    assert plain.objective.score(run.final) == measure(run.final, run.splits.test)


@pytest.mark.parametrize("protocol", ["controlled", "paper"])
def test_protocols_that_train_learn_from_the_answers(protocol):
    overrides = [f"protocol={protocol}", "protocol.objective=kl", "framework=uniform"]
    asked = cell_of(composed([*overrides, *SMALL, "protocol.fine_tune.epochs=0.2"]))
    record = compute(asked, key_of(asked))
    assert record.status == "done", record.error
    assert record.accuracy["fine_tuned"] == record.accuracy["final"] <= 100


def test_the_default_has_no_part_in_a_key():
    plain = cell()
    without = {**plain, "protocol": {**plain["protocol"]}}
    del without["protocol"]["objective"]
    assert key_of(plain) == key_of(without)
    keys = {key_of(cell(f"protocol.objective={o}")) for o in ("accuracy", "agreement", "kl")}
    assert len(keys) == 3


def test_what_there_is_not_is_refused():
    with pytest.raises(BadCell, match=r"objective: 'loss'; choose from .*agreement"):
        check(cell("protocol.objective=loss"))


def test_tables_say_what_they_show():
    records = []
    for objective in ("accuracy", "kl"):
        asked = cell(f"protocol.objective={objective}")
        records.append(compute(asked, key_of(asked)))
    groups = {group.shows: group for group in build(records).groups}
    assert set(groups) == {"accuracy", "agreement"}
    assert "objective=kl" in groups["agreement"].protocol
    table = build(records[1:])
    assert "| agreement" in table.markdown().replace("  ", " ")
    assert "ptq (objective=kl)" in table.text()
    assert "without labels" in table.text()
    assert "agreement" not in build(records[:1]).text()
