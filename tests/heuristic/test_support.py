"""Pairs of bits that the hardware does not run: they are not scored, and never chosen."""

import json

import pytest

from frameworks.core.search.alone import alone, decided, runs
from frameworks.heuristic.adaquant_ip import AdaQuantIP
from frameworks.heuristic.adq import ADQ
from frameworks.heuristic.hawq_v2 import HAWQV2
from frameworks.heuristic.layer_kl import LayerKL, LayerKLRefined
from frameworks.heuristic.mpqco import MPQCO
from frameworks.metaheuristic.apq import APQ
from tests.heuristic.few import OWN, PAIRS, few, unsupported

SEARCHES = [
    HAWQV2(images=8, batch=8, probes=2),
    HAWQV2(images=8, batch=8, probes=2, ordered=False),
    MPQCO(images=8),
    MPQCO(images=8, solver="exact"),
    MPQCO(images=8, act_bits=2),
    ADQ(images=4),
    ADQ(images=4, solver="frontier"),
    AdaQuantIP(images=8, pipeline="light"),
    LayerKL(images=8),
    LayerKLRefined(images=8, refine=12),
    APQ(cheap=20, images=8, cheap_epochs=1, pairs=4, epochs=2, hidden=8, population=6,
        generations=2, parents=2, mutants=3, children=3),
]  # fmt: skip


@pytest.mark.parametrize("framework", SEARCHES, ids=lambda f: f.name)
def test_no_policy_is_outside_of_what_the_hardware_runs(framework):
    problem = few(framework.card.needs & {"calibration", "train", "valid"})
    solution = framework.search(problem)
    json.dumps(solution.notes)
    for policy in (solution.policy, *(point.policy for point in solution.front or ())):
        problem.space.validate(policy)
        assert unsupported(problem, policy) == []
    assert problem.within(solution.policy)


def test_only_pairs_that_run_are_quantized_alone():
    problem = few({"calibration"})
    scores = LayerKL(images=8).score(problem).values["losses"]
    for name, row in scores.items():
        assert row.keys() == {f"{w} {a}" for w, a in OWN.get(name, PAIRS)}
    assert scores.keys() == {layer.name for layer in problem.space.free_layers}


def test_tied_layers_have_the_pairs_that_run_all_of_them():
    tied = ("blocks.0.conv1", "blocks.0.conv2")
    problem = few({"calibration"}, groups=[tied])
    assert dict(decided(problem))[tied] == sorted(PAIRS & OWN[tied[1]])


def test_a_policy_runs_where_each_channel_does():
    problem = few({"calibration"})
    policy = problem.space.highest()
    assert runs(problem, policy)
    assert not runs(problem, policy.replace("blocks.0.conv2", weight=4, act=4))
    mixed = (4, *(8,) * 6, 0)
    assert runs(problem, policy.replace("blocks.0.conv2", weight=mixed))
    assert not runs(problem, policy.replace("blocks.0.conv2", weight=(2, *mixed[1:])))
    assert not runs(problem, alone(problem, ("blocks.0.conv2",), (4, 4)))
