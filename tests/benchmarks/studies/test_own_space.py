"""Policies beside random ones of their method's own space."""

import json

import numpy as np
import pytest

from benchmarks.records.record import Record
from benchmarks.studies import own_space as study
from benchmarks.studies.own_space import OWN, Look, allowed, drawn, page
from frameworks import Policy
from frameworks.testing import toy

AXES = "framework", "protocol", "hardware"

RULES = {
    "ompq": {(2, 3), (3, 3), (4, 3)},
    "bmpq": {(2, 2), (4, 4)},
    "limpq": {(w, a) for w in (2, 3, 4) for a in (2, 3, 4)},
    "spos": {(2, 2), (2, 3), (2, 4), (3, 3), (3, 4), (4, 4)},
}


@pytest.fixture(scope="module")
def problem():
    return toy.make_problem(bits=(2, 3, 4))


@pytest.fixture(scope="module")
def rule(problem):
    found = problem.space.reference(4, 3)
    free = [layer.name for layer in problem.space.free_layers]

    def of(method):
        return allowed(method, found, free)

    return of


@pytest.mark.parametrize("method", OWN)
def test_what_each_can_choose_from(method, rule):
    every = [(w, a) for w in (2, 3, 4) for a in (2, 3, 4)]
    assert {pair for pair in every if rule(method)(*pair)} == RULES[method]


def test_pairs_that_were_given_are_what_there_is(problem):
    rule = allowed("spos", problem.space.reference(4, 3), [], [[2, 3], [4, 4]])
    assert [pair for pair in RULES["limpq"] if rule(*pair)] in ([(2, 3), (4, 4)], [(4, 4), (2, 3)])


def test_what_was_looked_at_is_kept(tmp_path, monkeypatch):
    """The command goes on where it was stopped, and forgets what is no longer a record."""
    policy = Policy({"a": (2, 2)}).to_json()

    def record(name, key):
        axes = {axis: {"name": n} for axis, n in zip(AXES, (name, "ptq", "bops"), strict=True)}
        cell = {**axes, "budget": {"like": 2.4}, "seed": 0}
        return Record(key, cell, "done", policy=policy)

    records, asked = [record("ompq", "a"), record("spos", "b"), record("haq", "c")], []

    def looked(one, known):
        asked.append(one.key)
        sides = ([80.0], [80.0])
        return Look(one.cell["framework"]["name"], 0, sides, sides, (80.0, 81.0), (0.5, 0.5))

    monkeypatch.setattr(study, "find_records", lambda path: records)
    monkeypatch.setattr(study, "look", looked)
    out = tmp_path / "own.md"
    assert study.main(["folder", "--out", str(out)]) == 0
    assert asked == ["a", "b"]
    records[1] = record("spos", "d")
    assert study.main(["folder", "--out", str(out)]) == 0
    assert asked == ["a", "b", "d"]
    assert out.read_text().count("| 81.0 |") == 2
    assert sorted(json.loads((tmp_path / "own.json").read_text())) == ["a", "d"]


@pytest.mark.parametrize("method", OWN)
def test_draws_are_of_the_space_and_leave_no_step_of_the_budget(method, problem, rule):
    pairs, rng = RULES[method], np.random.default_rng(0)
    free = [layer.name for layer in problem.space.free_layers]
    found = [drawn(problem, rule(method), rng) for _ in range(20)]
    assert len(set(found)) > 1 or method == "bmpq"  # of whose policies one uses the toy's budget
    costs = problem.layer_costs()
    for policy in found:
        assert problem.within(policy)
        for name in free:
            bits = policy[name]
            mine = (bits.weight, bits.act)
            assert mine in pairs
            dearer = [p for p in pairs if costs[name][p] > costs[name][mine]]
            assert not any(problem.within(policy.replace(name, weight=w, act=a)) for w, a in dearer)


def test_the_page_has_means_bests_and_ranks():
    one = Look("bmpq", 1, ([80.0, 90.0], [88.0]), ([70.0, 72.0], [71.0]), (72.0, 73.5), (0.5, -1.0))
    row = page([one], "here").splitlines()[-1]
    cells = [cell.strip() for cell in row.split("|")[1:-1]]
    assert cells[:2] == ["bmpq", "1"]
    assert cells[3:] == [
        "85.0", "90.0", "71.0", "72.0", "72.0", "0.50",
        "88.0", "88.0", "71.0", "71.0", "73.5", "-1.00",
    ]  # fmt: skip
