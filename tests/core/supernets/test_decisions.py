import itertools
import math

import pytest
import torch

from frameworks.core.supernets.decisions import (
    block_candidates,
    block_decisions,
    block_rows,
    decided,
    decision_cost,
    default_pairs,
    tied_blocks,
)
from frameworks.testing import toy

PAIRS = ((2, 2), (3, 4), (8, 8))


def test_default_pairs():
    space = toy.make_problem("bops", bits=(2, 4, 8)).space
    assert default_pairs(space) == [(2, 2), (2, 4), (4, 4), (4, 8), (8, 8)]
    paired = toy.make_problem("bops", bits=(2, 4, 8), paired=True).space
    assert default_pairs(paired) == [(2, 2), (4, 4), (8, 8)]
    assert default_pairs(toy.make_problem("size", bits=(2, 4)).space) == [(2, 2), (4, 4)]


def test_blocks_with_tied_layers_go_together():
    space = toy.make_problem("bops").space
    assert tied_blocks(space) == [("stem",), ("blocks.0",), ("blocks.1",), ("fc",)]
    tied = toy.make_problem("bops", groups=[("blocks.0.conv2", "blocks.1.depthwise")]).space
    assert tied_blocks(tied) == [("stem",), ("blocks.0", "blocks.1"), ("fc",)]


def test_decisions_price_their_candidates():
    problem = toy.make_problem("bops")
    decisions = block_decisions(problem, PAIRS)
    assert [d.blocks for d in decisions] == [("blocks.0",), ("blocks.1",)]
    macs = {layer.name: layer.macs for layer in problem.layers}
    first = macs["blocks.0.conv1"] + macs["blocks.0.conv2"]
    assert decisions[0].costs == (4 * first, 12 * first, 64 * first)
    assert [tuple(set(map(str, o.values()))) for o in decisions[1].options] == [
        (f"LayerBits(weight={w}, act={a})",) for w, a in PAIRS
    ]


def test_equal_candidates_count_once():
    problem = toy.make_problem("size", bits=(2, 4))  # activations stay at 8
    decisions = block_decisions(problem, [(2, 2), (2, 4), (3, 3), (4, 4), (8, 8)])
    assert [len(d.options) for d in decisions] == [2, 2]  # 3 bits go to 2, 8 bits to 4
    assert {entry.act for d in decisions for o in d.options for entry in o.values()} == {8}


def test_unsupported_candidates_are_left_out(monkeypatch):
    problem = toy.make_problem("bops")
    supports = lambda self, layer, w, a: (w, a) != (3, 4) or layer.block != "blocks.1"  # noqa: E731
    monkeypatch.setattr(type(problem.target), "supports", supports)
    assert [len(d.options) for d in block_decisions(problem, PAIRS)] == [3, 2]
    with pytest.raises(ValueError, match=r"none of the candidate pairs for .*blocks.1"):
        block_decisions(problem, [(3, 4)])


def test_blocks_get_the_bits_of_their_own_layers():
    problem = toy.make_problem("bops", groups=[("blocks.0.conv2", "blocks.1.depthwise")])
    decisions = block_decisions(problem, PAIRS)
    candidates = block_candidates(decisions, problem.space)
    assert [list(option) for option in candidates["blocks.1"]] == [
        ["blocks.1.depthwise", "blocks.1.pointwise"]
    ] * 3
    assert block_rows(decisions) == {"blocks.0": 0, "blocks.1": 0}


def test_decided_policies_are_valid_and_keep_pins():
    problem = toy.make_problem("bops")
    decisions = block_decisions(problem, PAIRS)
    for picks in itertools.product(range(3), repeat=2):
        policy = decided(problem.space, decisions, picks)
        problem.space.validate(policy)
        assert (policy["stem"].weight, policy["fc"].act) == (8, 8)
        assert policy["blocks.0.conv1"].weight == PAIRS[picks[0]][0]
        assert policy["blocks.1.pointwise"].act == PAIRS[picks[1]][1]


@pytest.mark.parametrize("target", ["bops", "size"])
def test_expected_cost_is_the_mean_over_all_architectures(target):
    problem = toy.make_problem(target)
    decisions = block_decisions(problem, PAIRS)
    cost = decision_cost(problem, decisions, math.e)
    p = torch.tensor([[0.2, 0.5, 0.3], [0.7, 0.1, 0.2]])
    costs = {
        picks: problem.cost(decided(problem.space, decisions, picks))[target]
        for picks in itertools.product(range(3), repeat=2)
    }
    unit = min(costs.values()) / math.e
    mean = sum(float(p[0, i] * p[1, j]) * c for (i, j), c in costs.items()) / unit
    assert float(cost(p)) == pytest.approx(mean, rel=1e-5)
    cheapest = torch.tensor([[1.0, 0, 0], [1.0, 0, 0]])
    assert float(cost(cheapest).log()) == pytest.approx(1, rel=1e-5)
