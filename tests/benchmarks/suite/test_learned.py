"""The gradient methods at the suite's settings learn their policies from the data.

Each search runs twice at the same budget and seed: as it is, and blind, with the gradient of all
that it has from the data set to zero, so that all that is left is the pull of its penalty. Policies
are compared untrained, on all search-validation images.
"""

import math
import sys

import pytest

from benchmarks.records.record import Record
from benchmarks.suite.cell import Run
from benchmarks.suite.config import composed, suite_cells
from frameworks import Score, Solution, registry, steer
from frameworks.gradient.gmpq import attribution

METHODS = (
    *("bayesian_bits", "bsq", "dnas", "edmips"),
    *("bp_nas", "csq", "djpq", "fracbits", "gmpq", "hmq", "mixed_dnn", "waveq"),
)
"""All of the family but SDQ, whose penalty alone finds uniform bits, which are hard to beat in its
space (see its card)."""
HARDENING = ("bp_nas", "csq")
"""What they minimise need not fall: they start from a soft network as good as the float one, which
Prob-1 and the rising temperature make a hard one."""
LIKE = 2.4
SEEDS = (0, 1, 2)
BLIND_RUNS = 3


def modules(name):
    """The modules of a method, a file or a folder of its family, in which it has its loss."""
    parts = registry.get(name).__module__.split(".")[:3]
    own = ".".join(parts)
    found = [m for key, m in sys.modules.items() if key == own or key.startswith(f"{own}.")]
    return [module for module in found if hasattr(module, "cross_entropy")]


def blind(monkeypatch, name):
    """Zero gradient of the data's losses, which keep their values; and no word of a collapse."""
    for module in modules(name):

        def constant(model, x, y, loss=module.cross_entropy):
            return loss(model, x, y).detach() + 0 * next(model.parameters()).sum()

        monkeypatch.setattr(module, "cross_entropy", constant)
    if name == "gmpq":  # its second term: where the float network looks
        monkeypatch.setattr(
            attribution, "distance", lambda *a, d=attribution.distance: d(*a).detach()
        )
    monkeypatch.setattr("frameworks.core.search.steering.CHANCE", math.inf)


def searched(name: str, seed: int, runs: int | None = None) -> tuple[Solution, Score]:
    """A cell of the suite ``quick``: what was found within the budget, and its score."""
    (cell,) = (
        cell
        for cell in suite_cells(composed(["+suite=quick"]))
        if cell["framework"]["name"] == name
        and cell["seed"] == seed
        and cell["budget"].get("like") == LIKE
    )
    run = Run(cell, Record(key="", cell=cell, status="failed"), lambda *_: None, None)
    framework = run.setting.framework
    problem = run.problem(framework.card.needs)
    solution = steer(framework, problem, runs or run.protocol["steering_runs"])
    assert problem.within(solution.policy)
    return solution, run.problem().evaluate(solution.policy)


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_the_data_s_gradient_finds_better_policies(name, monkeypatch):
    seen = [searched(name, seed) for seed in SEEDS]
    with monkeypatch.context() as patch:
        blind(patch, name)
        unseen = [searched(name, seed, BLIND_RUNS) for seed in SEEDS]
    for (found, _), (other, _) in zip(seen, unseen, strict=True):
        assert found.policy != other.policy
        assert "collapsed" not in found.notes
    if name not in HARDENING:
        # Not in all: where a good architecture is drawn early, DNAS has little left to gain.
        assert sum(found.notes["learning"]["improved"] for found, _ in seen) >= 2
    gains = [a.accuracy - b.accuracy for (_, a), (_, b) in zip(seen, unseen, strict=True)]
    assert math.fsum(gains) > 0, gains
    losses = [a.loss - b.loss for (_, a), (_, b) in zip(seen, unseen, strict=True)]
    assert math.fsum(losses) < 0, losses
