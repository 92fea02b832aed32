"""The gradient methods at the suite's settings learn their policies from the data.

Each search runs twice at the same budget and seed: as it is, and blind, with the gradient of the
cross-entropy set to zero, so that all that is left is the pull of its cost. Policies are compared
untrained, on all search-validation images.
"""

import importlib
import math

import pytest

from benchmarks.records.record import Record
from benchmarks.suite.cell import Run
from benchmarks.suite.config import composed, suite_cells
from frameworks import Score, Solution, registry, steer

METHODS = ("bayesian_bits", "bsq", "dnas", "edmips")
LIKE = 2.4
SEEDS = (0, 1, 2)
BLIND_RUNS = 3


def blind(monkeypatch, name):
    """Zero gradient of the data's loss, which keeps its value; and no word of a collapse."""
    module = importlib.import_module(registry.get(name).__module__)
    loss = module.cross_entropy

    def constant(model, x, y):
        return loss(model, x, y).detach() + 0 * next(model.parameters()).sum()

    monkeypatch.setattr(module, "cross_entropy", constant)
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
    # Not in all: where a good architecture is drawn early, DNAS has little left to gain.
    assert sum(found.notes["learning"]["improved"] for found, _ in seen) >= 2
    gains = [a.accuracy - b.accuracy for (_, a), (_, b) in zip(seen, unseen, strict=True)]
    assert math.fsum(gains) > 0, gains
    losses = [a.loss - b.loss for (_, a), (_, b) in zip(seen, unseen, strict=True)]
    assert math.fsum(losses) < 0, losses
