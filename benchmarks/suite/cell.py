"""One cell: build the problem, search, train if the protocol does, measure once, record."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from benchmarks.fingerprints.numerics import place
from benchmarks.models.network_check import check_training
from benchmarks.records.cache import WAITING, cache_folder
from benchmarks.records.plaindata import as_plain
from benchmarks.records.record import Record
from benchmarks.records.store import finite
from benchmarks.suite.assets import Progress, forget
from benchmarks.suite.conf import conf_folder
from benchmarks.suite.config import Cell
from benchmarks.suite.failures import explained, plugin_of, readable
from benchmarks.suite.ground import Ground, ground_of
from benchmarks.suite.identity import (
    BadCell,
    environment,
    git_state,
    identity_of,
    scores_key,
    verify,
)
from benchmarks.suite.objective import Objective, objective_of, shown
from benchmarks.suite.options.budgets import budget_spec
from benchmarks.suite.options.source import source_of
from benchmarks.suite.scores import shared_scores
from benchmarks.suite.setting import setting_of
from benchmarks.workers.isolation import unharmed
from benchmarks.workers.process import Interrupts, contained
from frameworks import (
    Data,
    Framework,
    Meter,
    Policy,
    Problem,
    QModel,
    Scores,
    ScoringFramework,
    Solution,
    Space,
    Spent,
    describe,
    finished,
    place_of,
    placed,
    registry,
    scored,
    seeded,
    skipped,
    solved,
    steer,
    torch_rng,
)

CURVE_POINTS = 12
"""At most this many points of a convergence picture are scored after the search."""


def compute(
    cell: Cell, key: str, progress: Progress = lambda *_: None, scores: Path | None = None
) -> Record:
    """Compute a cell. Whatever goes wrong in it becomes a record with the status ``failed``.

    The network, the data and the process are as before for the next cell, whatever a plugin did.

    Args:
        cell: the configuration.
        key: its key.
        progress: called with (done, total, text).
        scores: folder in which scoring passes are shared between budgets.
    """
    record = Record(key=key, cell=cell, status="failed")
    cache_folder()  # any other that it chooses is for all cells, not for this one

    def stages() -> None:
        record.identity = identity_of(cell)
        record.code = {**record.identity["code"]["framework"], "git": git_state()}
        verify(cell, record.identity, key)
        with contained(plugin_of(cell), []):
            Run(cell, record, progress, scores).go()

    return attempted(record, stages)


def attempted(record: Record, stages: Callable[[], None]) -> Record:
    """A record filled by the stages of its cell; whatever goes wrong in them makes it a failed one.

    Raises:
        KeyboardInterrupt: the process was interrupted from outside.
    """
    cell, started = record.cell, time.perf_counter()
    with Interrupts() as interrupts:
        try:
            card = registry.get(cell["framework"]["name"]).card
            record.card = as_plain(card.to_json(), "card")
            stages()
        except BaseException as error:  # a plugin may raise, or exit with, anything
            if interrupts.came and isinstance(error, KeyboardInterrupt):
                raise
            record.status, record.error = "failed", explained(error, cell)
    record.environment = as_plain(environment(), "environment")
    record.timings["total"] = time.perf_counter() - started
    return readable(record)


class Run:
    """The stages of one cell, filling a record.

    Args:
        cell: the configuration.
        record: is filled.
        progress: called with (done, total, text).
        scores: folder in which scoring passes are shared between budgets; None: they are not.
        ground: what it is computed on; None for what the configuration names.
    """

    def __init__(
        self,
        cell: Cell,
        record: Record,
        progress: Progress,
        scores: Path | None,
        ground: Ground | None = None,
    ) -> None:
        self.cell, self.record, self.scores = cell, record, scores
        self.progress, self.stage = progress, ""
        self.left_behind: list[str] = []
        self.final: QModel | None = None  # what was measured last, and what it was made with
        self.judged: Problem | None = None
        self.protocol = cell["protocol"]
        self.seed = int(cell["seed"])
        self.ground = ground or ground_of(cell, progress)
        self.splits, self.network = self.ground.splits, self.ground.network
        on_device = placed(copy.deepcopy(self.network), place().device)
        self.objective = Objective(objective_of(self.protocol), on_device, self.splits)
        self.setting = setting_of(cell, describe(self.network, self.splits.input_shape))
        record.weights = self.ground.accounting.to_json()
        self.budget = budget_spec(cell).resolve(self.setting.target, self.setting.space)
        record.budget = {
            "metric": self.budget.metric,
            "limit": self.budget.limit,
            "unit": self.budget.unit,
            "label": self.budget.label,
            "kind": self.setting.target.kind,
        }
        if self.budget.others:
            record.budget["bounds"] = [asdict(bound) for bound in self.budget.bounds]
        record.data = dict(self.ground.facts)

    @classmethod
    def aside(cls, cell: Cell, progress: Progress = lambda *_: None) -> Run:
        """The stages of a cell of which no record is kept, for its problem and its framework."""
        return cls(cell, Record(key="", cell=cell, status="failed"), progress, None)

    @property
    def trains(self) -> bool:
        """Whether the protocol trains the found policy."""
        return bool(self.protocol["name"] != "ptq")

    def problem(self, needs: frozenset[str] | None = None) -> Problem:
        """The problem with the data that a card names (all for None)."""
        found = self._problem(self.ground, self.objective, self.setting.admitted, needs)
        if (cell := source_of(self.cell, conf_folder())) is not None and needs is not None:
            found.source = self._source(cell, needs)
        return found

    def _source(self, cell: Cell, needs: frozenset[str]) -> Problem:
        """The problem of the other data set that the framework searches on.

        Raises:
            BadCell: its network has other layers.
        """
        ground = ground_of(cell, self.progress)
        layers = describe(ground.network, ground.splits.input_shape)
        space, name = self.setting.admitted, cell["dataset"]["name"]
        if tuple(layer.name for layer in layers) != space.names:
            raise BadCell(f"framework.source = {name!r}: the network has other layers on it")
        on_device = placed(copy.deepcopy(ground.network), place().device)
        objective = Objective(objective_of(self.protocol), on_device, ground.splits)
        return self._problem(ground, objective, replace(space, layers=layers), needs)

    def _problem(
        self, ground: Ground, objective: Objective, space: Space, needs: frozenset[str] | None
    ) -> Problem:
        draw = torch_rng(self.seed, "data")
        calibration = ground.splits.train.subset(self.protocol["calibration_images"], draw)
        valid = objective.valid(self.protocol["valid_images"], draw)
        retrains = self.trains and (needs is None or "train" in needs)

        def granted(need: str, value: Any) -> Any:
            return value if needs is None or need in needs else None

        return Problem(
            # A copy for each: what a plugin does to it must not reach the final networks.
            network=placed(copy.deepcopy(ground.network), place().device),
            space=space,
            target=self.setting.target,
            budget=self.budget,
            scheme=self.setting.scheme,
            data=Data(
                # A search that retrains as its paper does may read what the protocol trains on.
                train=granted("train", objective.train),
                valid=granted("valid", valid),
                calibration=granted("calibration", calibration.images()),
            ),
            seed=self.seed,
            bn=self.protocol.get("bn", "control"),
            bias_correction=self.protocol.get("bias_correction", False),
            retrains=retrains,
            recipe=self.setting.recipe,
            progress=self._within,
            input_shape=ground.splits.input_shape,
        )

    def go(self) -> None:
        """Search, train, measure."""
        framework = self.setting.framework
        self._check_training()
        problem = self.problem(framework.card.needs)
        with self.guarded(framework, "skip", problem):
            reason = skipped(framework, problem)
        if reason:
            self.record.status, self.record.reason = "skipped", reason
            return
        with self.guarded(framework, "search", problem), self._timed("search", "search"):
            problem.meter = Meter()
            solution, scoring = self.search(framework, problem)
            spent = problem.meter.read()
        problem.checkpoint(solution.policy)
        self._note_search(framework, problem, solution, spent, scoring)
        referee = problem if {"valid", "calibration"} <= framework.card.needs else self.problem()
        if solution.images is not None:
            # The curve is that of the policies as the search would have returned them.
            referee.data.calibration = solution.images
        with self._timed("curve", "curve"):
            self._note_curve(problem, referee, scoring)
        with self._timed("measure", "measuring"):
            self._measure(framework, solution)
        if self.left_behind:
            self.record.notes["left_behind"] = self.left_behind
        self.record.status = "done"

    def _check_training(self) -> None:
        """What would end the training of the found policy ends the cell before its search."""
        framework, recipe = self.setting.framework, self.setting.recipe
        if self.protocol["name"] == "paper":
            recipe = framework.recipe or recipe
            if not framework.trains:
                return
        if self.trains and recipe.epochs:
            images = self.splits.train.images(2)
            check_training(self.network, images, self.splits.classes, "the network")

    @contextmanager
    def guarded(self, framework: Framework, method: str, problem: Problem) -> Iterator[None]:
        """Within the context a plugin runs, which may change nothing but what is its own.

        Global random generators are seeded, so that a method that draws from them gives the same
        policy whatever was computed before.
        """
        who, left = place_of(framework, method), self.left_behind
        with unharmed(problem, who, forget), contained(who, left), seeded(self.seed, "global"):
            yield

    def search(self, framework: Framework, problem: Problem) -> tuple[Solution, Spent | None]:
        """The search; and what a scoring pass cost that is shared between budgets."""
        if not isinstance(framework, ScoringFramework) or self.scores is None:
            return steer(framework, problem, self.protocol["steering_runs"]), None
        name = scores_key(self.cell, self.record.identity, self.ground.facts["checkpoint"])
        path = self.scores / f"{name}.json"

        def make() -> tuple[Scores, Spent]:
            scores, spent = scored(framework, problem), problem.meter.read()
            problem.checkpoints.clear()
            return scores, spent

        scores, spent = shared_scores(path, place_of(framework, "score"), make, self._waits)
        problem.meter = Meter()
        return solved(framework, problem, scores), spent

    def _note_search(
        self,
        framework: Framework,
        problem: Problem,
        solution: Solution,
        spent: Spent,
        scoring: Spent | None,
    ) -> None:
        costs = as_plain(problem.cost(solution.policy), "costs")
        policy, layers = solution.policy, problem.layers
        elements = sum(layer.in_elements for layer in layers)
        self.record.policy = policy.to_json()
        self.record.costs = costs
        self.record.bits = {
            "weight": policy.mean_weight_bits(layers),
            "act": sum(x.in_elements * policy[x.name].act for x in layers) / elements,
        }
        self.record.budget = {
            **self.record.budget,
            "within": self.budget.allows(costs),
        }
        self.record.float_costs = _costs(problem, Policy.uniform(layers, 32, 32))
        self.record.int8_costs = _costs(problem, Policy.uniform(layers, 8, 8))
        self.record.search = (spent + scoring if scoring else spent).to_json()
        if scoring:
            self.record.search["scoring"] = scoring.to_json()
        self.record.front = [
            {"policy": p.policy.to_json(), "objectives": as_plain(p.objectives, "objectives")}
            for p in solution.front
        ]
        method = "solve" if isinstance(framework, ScoringFramework) else "search"
        where = f"{place_of(framework, method)}: notes"
        self.record.notes = finite(as_plain(dict(solution.notes), where))
        if outside := self.setting.outside(policy):
            self.record.notes["outside"] = outside
        if solution.weights is not None and self.protocol["name"] != "paper":
            self.record.weights["dropped"] = True

    def _note_curve(self, problem: Problem, referee: Problem, scoring: Spent | None) -> None:
        """Score what the search would have returned over time; best within the budget so far."""
        points = problem.checkpoints
        if len(points) > CURVE_POINTS:
            step = (len(points) - 1) / (CURVE_POINTS - 1)
            points = [points[round(i * step)] for i in range(CURVE_POINTS)]
        best: float | None = None
        for point in points:
            if problem.within(point.policy):
                accuracy = referee.evaluate(point.policy).accuracy
                best = accuracy if best is None else max(best, accuracy)
            if best is not None:
                at = point.spent + scoring if scoring else point.spent
                self.record.curve.append(
                    {
                        "policies": at.policies,
                        "images": at.images_forward + at.images_backward,
                        "seconds": at.seconds,
                        "objective": best,
                    }
                )

    def _measure(self, framework: Framework, solution: Solution) -> None:
        """The one reading of the test split for this policy."""
        judge = self.judged = self.judge(solution)
        ptq = self.untrained(solution, judge)
        self.final, fine_tuned = ptq, None
        searched, score = judge.score_model(ptq), self.objective.score(ptq)
        self.record.accuracy = {
            # A network agrees with itself.
            "float": 100.0 if self.objective.free else self.ground.float_accuracy,
            "valid": shown(searched),
            "ptq": shown(score),
            "fine_tuned": None,
        }
        if self.trains:
            controlled = self.protocol["name"] == "controlled"
            stage = "fine-tuning" if controlled else "training as published"
            with self._timed("fine_tune", stage):
                self.final = self.trained(framework, solution, judge)
                score = self.objective.score(self.final)
            fine_tuned = shown(score)
        self.record.accuracy["fine_tuned"] = fine_tuned
        self.record.accuracy["final"] = shown(score)
        if self.objective.free:
            self.record.accuracy["kl"] = finite(score.loss)
        if self.objective.name == "kl":
            self.record.accuracy["valid_kl"] = finite(searched.loss)

    def judge(self, solution: Solution) -> Problem:
        """The problem with all data that the final networks of a solution are made from."""
        judge = self.problem()
        if solution.images is not None:
            judge.data.calibration = solution.images
        return judge

    def untrained(self, solution: Solution, judge: Problem) -> QModel:
        """The network at the found policy without training."""
        ptq = judge.quantized(solution.policy)
        framework = self.setting.framework
        rounding = framework.rounding or self.protocol.get("rounding", "nearest")
        options = framework.rounding_options if framework.rounding else {}
        if left := judge.rounded(ptq, rounding, **options):
            self.record.notes["rounded_to_nearest"] = list(left)
        return ptq

    def trained(self, framework: Framework, solution: Solution, judge: Problem) -> QModel:
        """The network at the found policy, trained as the protocol says."""
        if self.protocol["name"] == "controlled":
            try:
                return judge.fine_tune(solution.policy)
            except FloatingPointError as error:
                raise FloatingPointError(
                    f"fine-tuning the found policy: {error}: lower protocol.fine_tune.lr"
                ) from error
        recipe = framework.recipe or self.setting.recipe
        most, images = self.protocol["max_epochs"], self.protocol["max_images"]
        if most:
            recipe = replace(recipe, epochs=min(recipe.epochs, most))
        if images:
            recipe = replace(recipe, images=min(recipe.images or images, images))
        judge.recipe = recipe
        with self.guarded(framework, "finish", judge):
            return finished(framework, judge, solution)

    @contextmanager
    def _timed(self, name: str, stage: str) -> Iterator[None]:
        """Within the context a stage runs, which is told and timed."""
        self.stage = stage
        self.progress(0, 1, stage)
        started = time.perf_counter()
        try:
            yield
        finally:
            self.record.timings[name] = time.perf_counter() - started

    def _waits(self, waits: bool) -> None:
        """Another process makes what the stage needs."""
        self.progress(0, 1, WAITING if waits else self.stage)

    def _within(self, done: int, total: int, text: str) -> None:
        """How far the stage is."""
        self.progress(done, total, f"{self.stage}: {text}" if self.stage else text)


def _costs(problem: Problem, policy: Policy) -> dict[str, float]:
    """Costs of a reference policy, empty where the target cannot price it."""
    try:
        found: dict[str, float] = as_plain(problem.cost(policy), "costs")
        return found
    except (KeyError, ValueError):
        return {}
