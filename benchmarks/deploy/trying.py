"""Methods tried at a budget, and the least budget whose policy stays within a drop."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from benchmarks.deploy.wanted import WIDEST
from benchmarks.fingerprints.numerics import library
from benchmarks.records.plaindata import as_plain
from benchmarks.records.record import Record, digest
from benchmarks.suite.assets import Progress
from benchmarks.suite.cell import Run
from benchmarks.suite.config import Cell
from benchmarks.suite.failures import plugin_of
from benchmarks.suite.ground import Ground
from benchmarks.suite.identity import environment, identity_of, key_from
from benchmarks.suite.objective import shown
from benchmarks.workers.process import contained
from frameworks import Budget, Meter, Problem, Solution, registry

STEPS = 7
"""Budgets that a bisection tries after the largest: it ends within 1 % of the range of costs."""


@dataclass(frozen=True)
class Bench:
    """Where methods are tried.

    Attributes:
        ground: the images and the float network.
        named: whether the cells name these, so that their records can be rebuilt from them.
        progress: called with (done, total, text).
        scores: folder in which scoring passes are shared.
    """

    ground: Ground
    named: bool
    progress: Progress
    scores: Path

    def run(self, cell: Cell) -> Run:
        """The stages of a cell, with the record that they fill."""
        identity = identity_of(cell) if self.named else {}
        facts = {"cell": cell, "checkpoint": self.ground.facts["checkpoint"]}
        key = key_from(cell, identity) if self.named else digest(facts)
        card = as_plain(registry.get(cell["framework"]["name"]).card.to_json(), "card")
        record = Record(key, cell, "failed", card=card, identity=identity, code=library())
        return Run(cell, record, self.progress, self.scores, self.ground)

    def tried(self, cell: Cell) -> Run:
        """A finished cell.

        Raises:
            ValueError: the method cannot solve it; the message says why.
        """
        run = self.run(cell)
        with contained(plugin_of(cell), []):
            run.go()
        if run.record.status == "skipped":
            raise ValueError(f"method {cell['framework']['name']}: {run.record.reason}")
        run.record.environment = as_plain(environment(), "environment")
        run.record.timings["total"] = sum(run.record.timings.values())
        return run

    def least(self, cell: Cell, drop: float) -> float:
        """The least limit at which the method's policy loses at most so much agreement.

        Agreement is not monotone in the budget to the last image: what is found is the edge that a
        bisection comes to, and a policy within the drop.

        Args:
            cell: at the largest budget.
            drop: points, on the search-validation images.

        Raises:
            ValueError: even the largest budget's policy loses more.
        """
        run = self.run(cell)
        framework, problem = run.setting.framework, run.problem(run.setting.framework.card.needs)
        judge, metric, unit = run.problem(), run.budget.metric, run.budget.unit

        def lost(limit: float) -> float:
            problem.budget, problem.meter = Budget(metric, limit, unit, "tried"), Meter()
            with run.guarded(framework, "search", problem):
                solution, _ = run.search(framework, problem)
            return 100 - _agreement(run, judge, solution)

        high, low = run.budget.limit, problem.cost(problem.cheapest())[metric]
        if (loses := lost(high)) > drop:
            raise ValueError(
                f"max_drop = {drop}: with {WIDEST} bits everywhere {loses:.2f} points of agreement "
                f"are lost on {searched_on(run)} search-validation images; allow more, or "
                "give more images (one of them counts "
                f"{100 / searched_on(run):.2g} points)"
            )
        for step in range(STEPS):
            self.progress(step, STEPS, "the cheapest budget within the drop")
            middle = (low + high) / 2
            low, high = (low, middle) if lost(middle) <= drop else (middle, high)
        return high


def searched_on(run: Run) -> int:
    """How many search-validation images a run sees."""
    return min(len(run.splits.valid), int(run.protocol["valid_images"]))


def _agreement(run: Run, judge: Problem, solution: Solution) -> float:
    """Of a solution's final network, on the search-validation images, in percent."""
    if run.trains:
        own = run.judge(solution)
        return shown(own.score_model(run.trained(run.setting.framework, solution, own)))
    if solution.images is not None:
        judge = run.judge(solution)
    return shown(judge.evaluate(solution.policy))
