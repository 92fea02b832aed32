"""The final network of a record, made anew.

A record has the configuration, the seed and the policy, not the weights. What the protocol does to
the pretrained network is deterministic, so it is done again. Under ``paper`` a framework may train
from weights that its search has made, and a data-free one calibrates on images that it made: there
the search is run again, too, and has to find the same policy.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import torch
from torch import nn

from benchmarks.data.load import Splits
from benchmarks.models.build import ModelConfig, create
from benchmarks.records.record import Record
from benchmarks.suite.assets import Progress, entry_text, layers_of, splits_of
from benchmarks.suite.cell import Run
from benchmarks.suite.objective import shown
from frameworks import (
    Policy,
    Problem,
    QModel,
    Solution,
    observe,
    schemes,
    torch_rng,
)


class CannotRebuild(ValueError):
    """A record's network cannot be made anew; the message says why."""


@dataclass(frozen=True)
class Rebuilt:
    """A record's network.

    Attributes:
        model: the quantized network at the record's policy.
        network: the float network it came from.
        problem: what it was made with.
        splits: the data; without labels, test images have the float network's answers.
        accuracy: top-1 on the test split in percent.
        warnings: in what the network differs from the record.
    """

    model: QModel
    network: nn.Module
    problem: Problem
    splits: Splits
    accuracy: float
    warnings: tuple[str, ...]

    def to(self, device: torch.device) -> Rebuilt:
        """The same on a device: files are written and run on the CPU."""
        model = copy.deepcopy(self.model).to(device).eval()
        problem, splits = self.problem.to(device), self.splits.to(device)
        return replace(self, model=model, problem=problem, splits=splits)

    def uniform(self, bits: int) -> QModel:
        """The float network at uniform bits without training; 32 is the float network itself."""
        model = self.problem.quantized(Policy.uniform(self.problem.layers, bits, bits))
        if bits != 32:
            self.problem.correct(model)
        return model


def checked(record: Record) -> Policy:
    """The policy of a record that can be rebuilt.

    Raises:
        CannotRebuild: the cell did not finish.
    """
    if record.status != "done" or record.policy is None:
        detail = record.reason or (record.error or "").strip().split("\n")[-1]
        raise CannotRebuild(
            f"record {record.key} is {record.status}, there is no policy to export ({detail})"
        )
    return Policy.from_json(record.policy)


def draft(record: Record) -> tuple[QModel, Splits]:
    """The network at the record's policy, untrained and hardly calibrated: to see what is possible.

    Raises:
        CannotRebuild: the policy is not of this network.
    """
    policy, cell = checked(record), record.cell
    model, dataset = entry_text(cell["model"]), entry_text(cell["dataset"])
    splits, layers = splits_of(dataset), layers_of(model, dataset)
    if [layer.name for layer in layers] != list(policy):
        raise CannotRebuild(f"record {record.key}: its policy is not of {cell['model']['name']}")
    network = create(ModelConfig(**cell["model"]), splits.classes, splits.input_shape)
    name = cell["protocol"]["quantizer"]
    if cell["protocol"]["name"] == "paper":
        name = record.card["quantizer"]
    calibration = observe(network, layers, splits.train.images(8), torch_rng(0, "draft"))
    draft = QModel(network, layers, schemes.get(name)(), calibration)
    return draft.fix(policy).eval(), splits


def rebuilt(
    record: Record, progress: Progress = lambda *_: None, calibration: int | None = None
) -> Rebuilt:
    """The network of a record.

    Args:
        record: a finished record.
        progress: called with (done, total, text).
        calibration: images to calibrate on, in the place of the record's number.

    Raises:
        CannotRebuild: the record has no policy, or its data or search cannot be had again.
    """
    policy, cell = checked(record), copy.deepcopy(record.cell)
    if calibration is not None:
        cell["protocol"]["calibration_images"] = calibration
    made = Record(key=record.key, cell=cell, status="failed")
    run = Run(cell, made, progress, None)
    if made.data["dataset"] != record.data.get("dataset", made.data["dataset"]):
        raise CannotRebuild(f"record {record.key}: its data are not those of this machine")
    framework = run.setting.framework
    solution = Solution(policy)
    if run.protocol["name"] == "paper" or "calibration" not in framework.card.needs:
        solution, _ = run.search(framework, run.problem(framework.card.needs))
        if solution.policy != policy:
            raise CannotRebuild(f"record {record.key}: the search, run again, found another policy")
    judge = run.judge(solution)
    if run.trains:
        model = run.trained(framework, solution, judge)
    else:
        model = run.untrained(solution, judge)
    accuracy = shown(run.objective.score(model))
    splits = replace(run.splits, test=run.objective.test)
    notes = tuple(_differences(record, made, accuracy, calibration))
    return Rebuilt(model, run.network, judge, splits, accuracy, notes)


def _differences(
    record: Record, made: Record, accuracy: float, calibration: int | None
) -> list[str]:
    notes = []
    if calibration is not None:
        notes.append(f"calibrated on {calibration} images, which the record is not")
    if made.data["checkpoint"] != record.data.get("checkpoint", made.data["checkpoint"]):
        origin = made.data["origin"]
        notes.append(f"the float checkpoint ({origin}) is another than the record's")
    final = record.accuracy["final"]
    if final != accuracy:
        notes.append(f"the rebuilt network has {accuracy:.2f} % top-1, the record says {final:.2f}")
    return notes
