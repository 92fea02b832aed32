"""One cell: build the problem, search, train if the protocol does, measure once, record."""

from __future__ import annotations

import json
import time
import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any

from filelock import FileLock
from safetensors.torch import load_file
from safetensors.torch import save as as_safetensors
from torch import nn

from benchmarks.assets import (
    Progress,
    Reporter,
    checkpoint_of,
    entry_text,
    fingerprint_of,
    splits_of,
)
from benchmarks.budgets import budget_spec
from benchmarks.config import Cell
from benchmarks.identity import environment, git_state, identity_of, scores_key, verify
from benchmarks.record import Record
from benchmarks.setting import accounted, setting_of
from benchmarks.store import finite, write_bytes, write_json
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
    Spent,
    describe,
    measure,
    reestimate_batchnorm,
    registry,
    steer,
    torch_rng,
)

CURVE_POINTS = 12
"""At most this many points of a convergence picture are scored after the search."""


def compute(
    cell: Cell, key: str, progress: Progress = lambda *_: None, scores: Path | None = None
) -> Record:
    """Compute a cell. Whatever goes wrong in it becomes a record with the status ``failed``.

    Args:
        cell: the configuration.
        key: its key.
        progress: called with (done, total, text).
        scores: folder in which scoring passes are shared between budgets.
    """
    record = Record(key=key, cell=cell, status="failed")
    started = time.perf_counter()
    try:
        record.identity = identity_of(cell)
        record.code = {**record.identity["code"]["framework"], "git": git_state()}
        verify(cell, record.identity, key)
        record.card = registry.get(cell["framework"]["name"]).card.to_json()
        Run(cell, record, progress, scores).go()
    except Exception:
        record.status = "failed"
        record.error = traceback.format_exc()
    record.environment = environment()
    record.timings["total"] = time.perf_counter() - started
    return record


class Run:
    """The stages of one cell, filling a record."""

    def __init__(self, cell: Cell, record: Record, progress: Progress, scores: Path | None) -> None:
        self.cell, self.record, self.scores = cell, record, scores
        self.progress = progress
        self.protocol = cell["protocol"]
        self.seed = int(cell["seed"])
        model, dataset = entry_text(cell["model"]), entry_text(cell["dataset"])
        self.splits = splits_of(dataset)
        self.checkpoint, self.float_accuracy = checkpoint_of(model, dataset, Reporter(progress))
        self.network: nn.Module = self.checkpoint.model
        self.setting = setting_of(cell, describe(self.network, self.splits.input_shape))
        record.weights = accounted(cell).to_json()
        self.budget = budget_spec(cell).resolve(self.setting.target, self.setting.space)
        record.budget = {
            "metric": self.budget.metric,
            "limit": self.budget.limit,
            "unit": self.budget.unit,
            "label": self.budget.label,
            "kind": self.setting.target.kind,
        }
        record.data = {
            "dataset": fingerprint_of(dataset),
            "checkpoint": self.checkpoint.fingerprint,
        }

    @property
    def trains(self) -> bool:
        """Whether the protocol trains the found policy."""
        return bool(self.protocol["name"] != "ptq")

    def problem(self, needs: frozenset[str] | None = None) -> Problem:
        """The problem with the data that a card names (all for None)."""
        draw = torch_rng(self.seed, "data")
        calibration = self.splits.train.subset(self.protocol["calibration_images"], draw)
        valid = self.splits.valid.subset(self.protocol["valid_images"], draw)
        retrains = self.trains and (needs is None or "train" in needs)

        def granted(need: str, value: Any) -> Any:
            return value if needs is None or need in needs else None

        return Problem(
            network=self.network,
            space=self.setting.space,
            target=self.setting.target,
            budget=self.budget,
            scheme=self.setting.scheme,
            data=Data(
                # A search that retrains as its paper does may read what the protocol trains on.
                train=granted("train", self.splits.train),
                valid=granted("valid", valid),
                calibration=granted("calibration", calibration.images()),
            ),
            seed=self.seed,
            retrains=retrains,
            recipe=self.setting.recipe,
            progress=self.progress,
            input_shape=self.splits.input_shape,
        )

    def go(self) -> None:
        """Search, train, measure."""
        framework = self.setting.framework
        problem = self.problem(framework.card.needs)
        reason = framework.skip(problem)
        if reason:
            self.record.status, self.record.reason = "skipped", reason
            return
        with self._timed("search"):
            problem.meter = Meter()
            solution, scoring = self.search(framework, problem)
            spent = problem.meter.read()
        problem.space.validate(solution.policy)
        problem.checkpoint(solution.policy)
        self._note_search(problem, solution, spent, scoring)
        referee = problem if {"valid", "calibration"} <= framework.card.needs else self.problem()
        if solution.images is not None:
            # The curve is that of the policies as the search would have returned them.
            referee.data.calibration = solution.images
        with self._timed("curve"):
            self._note_curve(problem, referee, scoring)
        with self._timed("measure"):
            self._measure(framework, solution)
        self.record.status = "done"

    def search(self, framework: Framework, problem: Problem) -> tuple[Solution, Spent | None]:
        """The search; and what a scoring pass cost that is shared between budgets."""
        if not isinstance(framework, ScoringFramework) or self.scores is None:
            return steer(framework, problem, self.protocol["steering_runs"]), None
        name = scores_key(self.cell, self.record.identity, self.checkpoint.fingerprint)
        path = self.scores / f"{name}.json"
        images = path.with_suffix(".safetensors")
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):
            if not path.exists():
                scores = framework.score(problem)
                spent = problem.meter.read()
                if scores.images is not None:
                    write_bytes(images, as_safetensors({"images": scores.images.contiguous()}))
                # A score may be infinite: a standard error of one draw, say.
                kept = {"values": dict(scores.values), "spent": spent.to_json()}
                write_json(path, kept, nonfinite=True)
                problem.meter = Meter()
                problem.checkpoints.clear()
        kept = json.loads(path.read_text(encoding="utf-8"))
        made = load_file(images)["images"] if images.exists() else None
        return framework.solve(problem, Scores(kept["values"], made)), Spent(**kept["spent"])

    def _note_search(
        self, problem: Problem, solution: Solution, spent: Spent, scoring: Spent | None
    ) -> None:
        costs, policy, layers = problem.cost(solution.policy), solution.policy, problem.layers
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
            {"policy": p.policy.to_json(), "objectives": dict(p.objectives)} for p in solution.front
        ]
        self.record.notes = finite(solution.notes)

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
        judge = self.judge(solution)
        self.progress(0, 1, "measuring")
        ptq = self.untrained(solution, judge)
        fine_tuned = None
        test = self.splits.test
        self.record.accuracy = {
            "float": self.float_accuracy,
            "valid": judge.score_model(ptq).accuracy,
            "ptq": measure(ptq, test).accuracy,
            "fine_tuned": None,
        }
        if self.trains:
            with self._timed("fine_tune"):
                fine_tuned = measure(self.trained(framework, solution, judge), test).accuracy
        self.record.accuracy["fine_tuned"] = fine_tuned
        self.record.accuracy["final"] = (
            self.record.accuracy["ptq"] if fine_tuned is None else fine_tuned
        )

    def judge(self, solution: Solution) -> Problem:
        """The problem with all data that the final networks of a solution are made from."""
        judge = self.problem()
        if solution.images is not None:
            judge.data.calibration = solution.images
        return judge

    def untrained(self, solution: Solution, judge: Problem) -> QModel:
        """The network at the found policy without training."""
        ptq = judge.quantized(solution.policy)
        reestimate_batchnorm(ptq, judge.images)
        return ptq

    def trained(self, framework: Framework, solution: Solution, judge: Problem) -> QModel:
        """The network at the found policy, trained as the protocol says."""
        if self.protocol["name"] == "controlled":
            self.progress(0, 1, "fine-tuning")
            try:
                return judge.fine_tune(solution.policy)
            except FloatingPointError as error:
                raise FloatingPointError(
                    f"fine-tuning the found policy: {error}: lower protocol.fine_tune.lr"
                ) from error
        self.progress(0, 1, "training as published")
        recipe = framework.recipe or self.setting.recipe
        most, images = self.protocol["max_epochs"], self.protocol["max_images"]
        if most:
            recipe = replace(recipe, epochs=min(recipe.epochs, most))
        if images:
            recipe = replace(recipe, images=min(recipe.images or images, images))
        judge.recipe = recipe
        return framework.finish(judge, solution)

    def _timed(self, stage: str) -> _Timer:
        return _Timer(self.record.timings, stage)


class _Timer:
    def __init__(self, timings: dict[str, float], stage: str) -> None:
        self.timings, self.stage = timings, stage

    def __enter__(self) -> None:
        self.started = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.timings[self.stage] = time.perf_counter() - self.started


def _costs(problem: Problem, policy: Policy) -> dict[str, float]:
    """Costs of a reference policy, empty where the target cannot price it."""
    try:
        return problem.cost(policy)
    except (KeyError, ValueError):
        return {}
