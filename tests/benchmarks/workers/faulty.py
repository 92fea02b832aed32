"""Plugins that do what a test tells them to do."""

from dataclasses import dataclass
from typing import ClassVar

from benchmarks.suite.cell import compute
from benchmarks.suite.config import cell_of, composed
from benchmarks.suite.identity import key_of
from frameworks import Card, Framework, ScoringFramework, Solution

FAST = [
    "dataset.pretrain.epochs=1",
    "protocol.valid_images=60",
    "protocol.calibration_images=60",
    "hardware=bops",
]
CARD = Card(
    title="Faulty", year=2026, category="heuristic", quantizer="mse", granularity="layer",
    searches=("weight",), needs=frozenset({"calibration", "train", "valid"}),
)  # fmt: skip


@dataclass
class Faulty(Framework):
    """Does what a test tells it to do."""

    name: ClassVar[str] = "faulty"
    card: ClassVar[Card] = CARD

    def search(self, problem):
        return Faulty.act(problem)


@dataclass
class FaultyScores(ScoringFramework):
    """The same with scores."""

    name: ClassVar[str] = "faulty_scores"
    card: ClassVar[Card] = CARD

    def score(self, problem):
        return FaultyScores.act(problem)

    def solve(self, problem, scores):
        return FaultyScores.answer(problem, scores)


def cell_with(*overrides):
    return cell_of(composed([*FAST, *overrides]))


def run(act, *overrides):
    """The record of a search that does something."""
    Faulty.act = staticmethod(act)
    cell = cell_with("framework=faulty", *overrides)
    return compute(cell, key_of(cell))


def uniform():
    cell = cell_with()
    return compute(cell, key_of(cell))


def lowest(problem):
    return Solution(problem.space.lowest())


def noting(**notes):
    return lambda problem: Solution(problem.space.lowest(), notes=notes)
