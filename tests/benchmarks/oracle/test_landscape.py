"""Evaluating a whole space: the same numbers as one policy alone, and it goes on anywhere."""

import numpy as np
import pytest

from benchmarks.oracle.landscape import Asked, Landscape, length_of_parts
from benchmarks.oracle.parts import whole
from benchmarks.suite.config import cell_of, composed
from frameworks import Choice

OVERRIDES = [
    "hardware=bops", "protocol.weight_bits=[2,8]", "protocol.act_bits=[2,8]",
    "protocol.paired=true", "space.restrict=[layer2.0.conv2,layer3.0.conv1,layer3.0.conv2]",
    "protocol.valid_images=60", "protocol.calibration_images=32",
]  # fmt: skip


@pytest.fixture(scope="module")
def asked():
    return Asked(cell_of(composed(OVERRIDES)), test_images=50)


@pytest.fixture(scope="module")
def table(asked, tmp_path_factory):
    folder = tmp_path_factory.mktemp("parts")
    return whole(asked, folder, report=lambda *_: None)


def test_scores_are_those_of_each_policy_alone(asked, table):
    """By a fresh network each, without anything resumed."""
    assert len(table) == 8
    landscape = Landscape(asked)
    problem = landscape.problem
    test = landscape._splits["test"]
    for row in range(8):
        policy = table.policy(row)
        fresh = problem.at()
        score = fresh.evaluate(policy)
        network = fresh.correct(fresh.quantized(policy))
        assert table.scores("valid")[policy].accuracy == score.accuracy
        assert table.scores("valid")[policy].loss == pytest.approx(score.loss, rel=1e-5)
        found = sum(int((network(x).argmax(1) == y).sum()) for x, y in test.batches(25))
        assert table.columns["test.accuracy"][row] == 100 * found / 50


def test_costs_stand_in_the_table(table):
    from frameworks import Policy

    assert table.columns["cost.bops"].argmin() == 0
    assert table.columns["cost.bops"].argmax() == 7
    widest: Policy = table.policy(7)
    assert {entry.weight for entry in widest.values()} == {8}


def test_agreement_is_with_the_float_network(table):
    assert table.facts["float"]["valid.agreement"] == 100.0
    assert table.columns["valid.agreement"][7] > 95
    assert (table.columns["valid.agreement"] <= 100).all()


def test_what_is_there_is_not_computed_again(asked, table, tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.oracle.landscape.PART", 4)
    monkeypatch.setattr("benchmarks.oracle.parts.length_of_parts", lambda choices: 4)
    said = []
    first = whole(asked, tmp_path, report=lambda *numbers: said.append(numbers[:2]))
    assert said == [(4, 8), (8, 8)]
    (tmp_path / "00000004.json").unlink()
    said.clear()
    again = whole(asked, tmp_path, report=lambda *numbers: said.append(numbers[:2]))
    assert said == [(8, 8)]
    for name in (n for n in table.columns if n != "seconds"):
        assert np.array_equal(first.columns[name], table.columns[name]), name
        assert np.array_equal(again.columns[name], table.columns[name]), name


def test_parts_of_another_table_are_not_mixed_in(asked, tmp_path):
    whole_of = Asked(asked.cell, test_images=20)
    (tmp_path / "table.json").write_text('{"key": "another"}')
    with pytest.raises(ValueError, match="parts of another table"):
        whole(whole_of, tmp_path, report=lambda *_: None)


@pytest.mark.parametrize(
    ("counts", "length"), [((4,) * 8, 1024), ((3,) * 8, 729), ((2, 2), 4), ((2000, 3), 3)]
)
def test_parts_share_their_first_decisions(counts, length):
    choices = tuple(Choice((str(i),), "weight", tuple(range(n))) for i, n in enumerate(counts))
    assert length_of_parts(choices) == length
