"""The searches and scoring passes of the study, each kept when it is there."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any

from benchmarks.oracle.landscape import Asked, Landscape
from benchmarks.oracle.oracle_table import OracleTable
from benchmarks.records.store import read_json, write_json
from benchmarks.studies.landscape import ranks as ranking
from benchmarks.studies.landscape.regret import Truth, searched, truth
from frameworks import (
    BudgetSpec,
    Framework,
    Problem,
    Scores,
    ScoringFramework,
    registry,
    targets,
)

Say = Callable[[str], None]


def settings() -> dict[str, Any]:
    """Budgets, lengths and settings of the study."""
    text = files("benchmarks.studies.landscape").joinpath("settings.json").read_text("utf-8")
    found: dict[str, Any] = json.loads(text)
    return found


@dataclass
class Study:
    """What the study of one table needs.

    Attributes:
        table: the whole space.
        plan: see `settings`.
        folder: where searches are kept.
    """

    table: OracleTable
    plan: Mapping[str, Any]
    folder: Path

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
        likes: Sequence[float] = self.plan["budgets"][self.target]
        return {
            like: truth(
                self.table,
                replace(self.problem, target=target),
                BudgetSpec(like=like).resolve(target, self.problem.space),
            )
            for like in likes
        }

    def regrets(self, length: str, seeds: int, say: Say) -> dict[str, list[dict[str, Any]]]:
        """The searches of one length, by framework and budget (``NAME like=N``).

        A framework whose settings have changed is searched anew, the others are kept.
        """
        path = self.folder / f"regret-{length}.json"
        had = read_json(path) if path.exists() else {}
        kept = had.get("runs", {}) if had.get("table") == self.table.fingerprint() else {}
        known = had.get("plan", {})
        frameworks = self.plan["searches"][length]["frameworks"]
        fresh = {name: o for name, o in frameworks.items() if known.get(name) == o}
        runs = {name: found for name, found in kept.items() if name.split(" ")[0] in fresh}
        facts = {"table": self.table.fingerprint(), "plan": frameworks, "runs": runs}
        for name, options in frameworks.items():
            for seed in range(seeds):
                self._search(registry.get(name)(**options), seed, runs)
                write_json(path, facts)
            say(f"{length}: {name}")
        return {f"{n} like={b:g}": runs[f"{n} like={b:g}"] for n in frameworks for b in self.truths}

    def _search(
        self, framework: Framework, seed: int, runs: dict[str, list[dict[str, Any]]]
    ) -> None:
        """The searches of one seed that are missing; a scoring pass serves all budgets."""
        scores: Scores | None = None
        for like, best in self.truths.items():
            found = runs.setdefault(f"{framework.name} like={like:g}", [])
            if len(found) > seed:
                continue
            if scores is None and isinstance(framework, ScoringFramework):
                scores = framework.score(self.problem.at(seed=seed))
            found.append(searched(framework, self.problem, self.table, best, seed, scores))

    def ranks(self, say: Say) -> dict[str, ranking.Ranks]:
        """The rank correlations of every sensitivity with the loss."""
        split = "valid"
        measure = f"{split}.loss"
        found: dict[str, ranking.Ranks] = {}
        for name, options in self.plan["sensitivities"].items():
            framework = registry.get(name)(**options)
            assert isinstance(framework, ScoringFramework)
            losses = ranking.losses_of(framework, self.problem.at())
            if losses is not None:
                found[name] = ranking.ranks(self.table, losses, measure)
            say(f"sensitivity: {name}")
        return found
