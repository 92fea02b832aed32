"""The searches and scoring passes of the study, each kept when it is there."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any

from benchmarks.oracle.landscape import Asked, Landscape
from benchmarks.oracle.oracle_table import OracleTable
from benchmarks.records.store import read_json, write_json
from benchmarks.studies.landscape.ranks import Ranks, losses_of, ranks
from benchmarks.studies.landscape.regret import Truth, searched, truth
from benchmarks.suite.running.several import computed
from frameworks import BudgetSpec, Problem, Scores, ScoringFramework, registry, targets

Say = Callable[[str], None]
Options = Mapping[str, Any]
RANKED = "valid"
"""Sensitivities are to order the losses on this split."""


def settings() -> dict[str, Any]:
    """Budgets, lengths and settings of the study."""
    text = files("benchmarks.studies.landscape").joinpath("settings.json").read_text("utf-8")
    found: dict[str, Any] = json.loads(text)
    return found


@dataclass
class Ground:
    """A space that is wholly known, with the problem that it is of.

    Attributes:
        table: the whole space.
        budgets: by target, as ``like`` of a uniform policy.
    """

    table: OracleTable
    budgets: Mapping[str, Sequence[float]]

    @cached_property
    def target(self) -> str:
        """The target whose costs the budgets limit: that of the table's own space."""
        return str(self.table.facts["cell"]["hardware"]["name"])

    @cached_property
    def problem(self) -> Problem:
        """The problem that the table was made from."""
        cell = {**self.table.facts["cell"], "framework": {"name": "uniform"}}
        cell["budget"] = {"like": 4.0}
        return Landscape(Asked(cell)).problem

    @cached_property
    def truths(self) -> dict[float, Truth]:
        """The best policy of each budget, by ``like``."""
        target = targets.get(self.target)()
        return {
            like: truth(
                self.table,
                replace(self.problem, target=target),
                BudgetSpec(like=like).resolve(target, self.problem.space),
            )
            for like in self.budgets[self.target]
        }

    def searches(self, name: str, options: Options, seed: int) -> dict[str, Any]:
        """A search of every budget, by ``like``; one scoring pass serves all of them."""
        framework = registry.get(name)(**options)
        scores: Scores | None = None
        if isinstance(framework, ScoringFramework):
            scores = framework.score(self.problem.at(seed=seed))
        return {
            f"{like:g}": searched(framework, self.problem, self.table, best, seed, scores)
            for like, best in self.truths.items()
        }

    def ranks(self, name: str, options: Options) -> dict[str, float] | None:
        """How well a sensitivity orders the loss; None for what says nothing of layers."""
        framework = registry.get(name)(**options)
        assert isinstance(framework, ScoringFramework)
        losses = losses_of(framework, self.problem.at())
        return None if losses is None else asdict(ranks(self.table, losses, f"{RANKED}.loss"))


_grounds: dict[str, Ground] = {}


def ground_of(table: OracleTable, budgets: Mapping[str, Sequence[float]]) -> Ground:
    """The ground of a table, made once in a process."""
    name = json.dumps([table.fingerprint(), budgets], sort_keys=True)
    if name not in _grounds:
        _grounds.clear()
        _grounds[name] = Ground(table, budgets)
    return _grounds[name]


def _searches(
    table: OracleTable, budgets: Mapping[str, Sequence[float]], *asked: Any
) -> dict[str, Any]:
    return ground_of(table, budgets).searches(*asked)


def _ranks(
    table: OracleTable, budgets: Mapping[str, Sequence[float]], *asked: Any
) -> dict[str, float] | None:
    return ground_of(table, budgets).ranks(*asked)


@dataclass
class Study:
    """The study of one table.

    Attributes:
        table: the whole space.
        plan: see `settings`.
        folder: where searches are kept.
        workers: processes that search.
    """

    table: OracleTable
    plan: Mapping[str, Any]
    folder: Path
    workers: int = 1

    @property
    def ground(self) -> Ground:
        """The space, its problem and the best of every budget."""
        return ground_of(self.table, self.plan["budgets"])

    def regrets(self, length: str, seeds: int, say: Say) -> dict[str, list[dict[str, Any]]]:
        """The searches of one length, by framework and budget (``NAME like=N``), seed by seed.

        A framework whose settings have changed is searched anew, the others are kept.
        """
        frameworks: Mapping[str, Options] = self.plan["searches"][length]["frameworks"]
        asked = [(name, frameworks[name], seed) for name in frameworks for seed in range(seeds)]
        runs = self._each(_searches, f"regret-{length}.json", asked, say)
        return {
            f"{name} like={like:g}": [
                runs[_label(name, frameworks[name], seed)][f"{like:g}"] for seed in range(seeds)
            ]
            for name in frameworks
            for like in self.ground.truths
        }

    def ranks(self, say: Say) -> dict[str, Ranks]:
        """The rank correlations of every sensitivity with the loss."""
        asked = list(self.plan["sensitivities"].items())
        found = self._each(_ranks, "ranks.json", asked, say)
        values = {name: found[_label(name, options)] for name, options in asked}
        return {name: Ranks(**value) for name, value in values.items() if value is not None}

    def _each(
        self, function: Callable[..., Any], file: str, asked: Sequence[tuple[Any, ...]], say: Say
    ) -> dict[str, Any]:
        """What a function finds for each that is asked; what the file has is not made again."""
        path, labels = self.folder / file, [_label(*one) for one in asked]
        had = read_json(path) if path.exists() else {}
        here = had.get("table") == self.table.fingerprint()
        found = {k: v for k, v in had.get("found", {}).items() if here and k in labels}
        todo = [i for i, label in enumerate(labels) if label not in found]
        tasks = [(self.table, self.plan["budgets"], *asked[i]) for i in todo]
        for i, value in computed(function, tasks, workers=self.workers):
            found[labels[todo[i]]] = value
            write_json(path, {"table": self.table.fingerprint(), "found": found})
            say(f"{len(found)} of {len(labels)}: {labels[todo[i]]}")
        return found


def _label(name: str, options: Options, *seed: int) -> str:
    """Names what is kept: a framework with its settings, and the seed of a search."""
    return " ".join([name, json.dumps(options, sort_keys=True), *(f"seed={s}" for s in seed)])
