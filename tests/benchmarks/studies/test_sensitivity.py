"""Predicted beside measured rises of the loss."""

import pytest

from benchmarks.records.record import Record
from benchmarks.studies import sensitivity
from benchmarks.studies.sensitivity import Point, compare, page, points
from frameworks import registry
from frameworks.testing import toy


def test_points_set_half_of_omega_beside_the_rise_of_one_layer_alone():
    problem = toy.make_problem(bits=(2, 4, 8))
    scores = dict(
        registry.get("hawq_v3")(images=32, batch=32, probes=4, paired=False).score(problem).values
    )
    found = points(problem, scores)
    assert len(found) == 2 * len(problem.space.choices)
    point = next(p for p in found if p.kind == "act" and p.bits == 2)
    omega = abs(scores["act_trace"][point.layer]) * scores["act_error"][point.layer]["2"]
    assert point.predicted == pytest.approx(omega / 2)
    most = problem.space.highest()
    alone = problem.evaluate(most.replace(point.layer, act=2)).loss - problem.evaluate(most).loss
    assert point.measured == alone


def test_the_page_sums_and_ranks():
    found = [Point("weight", f"l{i}", 2, 0.1 * i, 0.2 * i) for i in range(1, 4)]
    found.append(Point("act", "l1", 2, 0.5, -0.25))
    text = page(found, "net")
    assert "| weight | 2 | 0.6000 | 1.2000 | 1.00 |" in text
    assert "| act | 2 | 0.5000 | -0.2500 | nan |" in text
    assert "| weight | l3 | 2 | 0.3000 | 0.6000 |" in text


def test_another_frameworks_record_is_refused():
    record = Record(key="k", cell={"framework": {"name": "haq"}}, status="done")
    with pytest.raises(ValueError, match="record of hawq_v3 is needed, this is one of haq"):
        compare(record)


def test_the_command_writes_the_page(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sensitivity, "read_record", lambda path: path)
    monkeypatch.setattr(sensitivity, "compare", lambda record: f"page of {record.name}")
    out = tmp_path / "s.md"
    assert sensitivity.main(["k.json", "--out", str(out)]) == 0
    assert out.read_text() == "page of k.json"
    assert "page of k.json" in capsys.readouterr().out
