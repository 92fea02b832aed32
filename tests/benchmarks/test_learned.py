"""The gradient methods at the suite's settings learn their policies from the data.

Each search runs twice at the same budget and seed: as it is, and blind, with the gradient of the
cross-entropy set to zero, so that all that is left is the pull of its cost.
"""

import importlib
import math

import pytest

from benchmarks.cell import Run
from benchmarks.config import composed, suite_cells
from benchmarks.record import Record
from frameworks import Score, Solution, steer

METHODS = ("bayesian_bits", "bsq", "dnas", "edmips")
LIKE = 2.4
SEEDS = (0, 1, 2)


def blind(monkeypatch, name):
    """Zero gradient of the data's loss, which keeps its value."""
    module = importlib.import_module(f"frameworks.gradient.{name}")
    loss = module.cross_entropy

    def constant(model, x, y):
        return loss(model, x, y).detach() + 0 * next(model.parameters()).sum()

    monkeypatch.setattr(module, "cross_entropy", constant)


def searched(name: str, seed: int) -> tuple[Solution, Score, bool]:
    """A cell of the suite ``quick``: what was found, its score on all of search-validation."""
    (cell,) = (
        cell for cell in suite_cells(composed(["+suite=quick"]))
        if cell["framework"]["name"] == name and cell["seed"] == seed
        and cell["budget"].get("like") == LIKE
    )  # fmt: skip
    run = Run(cell, Record(key="", cell=cell, status="failed"), lambda *_: None, None)
    framework = run.setting.framework
    problem = run.problem(framework.card.needs)
    solution = steer(framework, problem, run.protocol["steering_runs"])
    return solution, run.problem().evaluate(solution.policy), problem.within(solution.policy)


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_the_data_s_gradient_finds_better_policies(name, monkeypatch):
    seen = [searched(name, seed) for seed in SEEDS]
    with monkeypatch.context() as patch:
        blind(patch, name)
        unseen = [searched(name, seed) for seed in SEEDS]
    assert all(within for _, _, within in seen)
    assert all(a[0].policy != b[0].policy for a, b in zip(seen, unseen, strict=True))
    gain = [a[1].accuracy - b[1].accuracy for a, b in zip(seen, unseen, strict=True)]
    assert math.fsum(gain) > 0, gain
    losses = [(a[1].loss, b[1].loss) for a, b in zip(seen, unseen, strict=True)]
    assert math.fsum(a - b for a, b in losses) < 0, losses
    assert all(solution.notes["learning"]["improved"] for solution, _, _ in seen)
    assert not any(solution.notes.get("collapsed") for solution, _, _ in seen)
