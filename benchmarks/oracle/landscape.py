"""Evaluating every policy of a cell's space, in parts that are kept, so that it goes on anywhere.

Policies are gone through in lexicographic order, so that nearly all of them differ from the one
before in their last layers alone: passes, BatchNorm's correction included, go on from there
(`frameworks.Evaluator`), with the same results to the last bit as whole ones.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.records.record import digest
from benchmarks.suite.assets import Progress, entry_text, splits_here
from benchmarks.suite.cell import Run
from benchmarks.suite.config import Cell
from benchmarks.suite.identity import environment, identity_of
from frameworks import Choice, Evaluator, Policy, Problem, Space, Split, targets, torch_rng

PART = 1024
"""At most this many policies are evaluated between two files."""
KEPT = 3 << 30
"""Bytes of intermediate outputs that may be kept."""
PRICED = "size", "bops"
"""The targets whose costs stand in the table."""


@dataclass(frozen=True)
class Asked:
    """What is evaluated.

    Attributes:
        cell: names the network, the data, the space (its protocol's, on its hardware) and the
            search-validation images.
        test_images: that many of the test split, drawn once; 0 for all.
    """

    cell: Cell
    test_images: int = 2000


@dataclass(frozen=True)
class Scored:
    """A split with its labels and what the float network answers."""

    split: Split
    labels: Tensor
    answers: Tensor

    def measures(self, logits: Tensor) -> dict[str, float]:
        """Accuracy and agreement in percent, and the mean cross-entropy, of logits."""
        top = logits.argmax(1)
        return {
            "accuracy": _percent(top == self.labels),
            "loss": float(functional.cross_entropy(logits, self.labels)),
            "agreement": _percent(top == self.answers),
        }


def _percent(right: Tensor) -> float:
    return 100.0 * int(right.sum()) / len(right)


class Landscape:
    """A cell's space, ready to be evaluated.

    Args:
        asked: what is evaluated.
        progress: called with (done, total, text).
    """

    def __init__(self, asked: Asked, progress: Progress = lambda *_: None) -> None:
        self.asked, cell = asked, asked.cell
        run = Run.aside(cell, progress)
        self.problem: Problem = run.problem()
        self.space: Space = self.problem.space
        self.identity = identity_of(cell)
        self.data = run.record.data
        test = splits_here(entry_text(cell["dataset"])).test
        if asked.test_images:
            draw = torch_rng(int(cell["seed"]), "oracle")
            test = test.subset(min(asked.test_images, len(test)), draw)
        self.evaluator: Evaluator | None = None
        self._splits = {"valid": self.problem.valid, "test": test}
        self._scored: dict[str, Scored] = {}

    @property
    def size(self) -> int:
        """Policies of the space."""
        return self.space.size

    def policies(self, first: int, last: int) -> Iterator[Policy]:
        """Those from one row up to another, in the table's order."""
        counts = [len(choice.bits) for choice in self.space.choices]
        for row in range(first, last):
            values, rest = [], row
            for choice, count in zip(reversed(self.space.choices), reversed(counts), strict=True):
                rest, place = divmod(rest, count)
                values.append(choice.bits[place])
            yield self.space.decode(values[::-1])

    def measured(self, policy: Policy) -> dict[str, float]:
        """A policy's scores on all splits, by the names of columns."""
        if self.evaluator is None:
            self._begin()
        assert self.evaluator is not None
        started = time.perf_counter()
        self.evaluator.settle(policy)
        found = {
            f"{name}.{measure}": value
            for name, scored in self._scored.items()
            for measure, value in scored.measures(self.evaluator.outputs(scored.split)).items()
        }
        return {**found, "seconds": time.perf_counter() - started}

    def _begin(self) -> None:
        problem = self.problem
        self.evaluator = Evaluator(
            problem.quantized(), problem.valid, problem.correction, problem.meter, KEPT
        )
        network = problem.float_model()
        with torch.no_grad():
            for name, split in self._splits.items():
                pairs = [(network(x).argmax(1), y) for x, y in split.batches(250)]
                answers, labels = (torch.cat(parts) for parts in zip(*pairs, strict=True))
                self._scored[name] = Scored(split, labels, answers)

    def costs(self) -> dict[str, np.ndarray]:
        """The costs of all policies by ``cost.metric``, where these targets price them."""
        found: dict[str, np.ndarray] = {}
        layers = self.space.layers
        for name in PRICED:
            target = targets.get(name)()
            costs = [
                target.cost(layers, policy)[target.metric] for policy in self.policies(0, self.size)
            ]
            found[f"cost.{target.metric}"] = np.array(costs)
        return found

    def facts(self) -> dict[str, Any]:
        """What was evaluated, for the table."""
        return {
            **self.basis(),
            "images": {name: len(split) for name, split in self._splits.items()},
            "data": self.data,
            "layers": [
                {
                    "name": layer.name,
                    "kind": layer.kind,
                    "weights": layer.params,
                    "macs": layer.macs,
                    "inputs": layer.in_elements,
                }
                for layer in self.space.layers
            ],
            "float": self._float(),
            "environment": environment(),
        }

    def _float(self) -> dict[str, float]:
        if not self._scored:
            self._begin()
        network = self.problem.float_model()
        with torch.no_grad():
            return {
                f"{name}.{measure}": value
                for name, scored in self._scored.items()
                for measure, value in scored.measures(
                    torch.cat([network(x) for x, _ in scored.split.batches(250)])
                ).items()
            }

    def basis(self) -> dict[str, Any]:
        """What the scores depend on: the cell and its identity, without framework and budget."""
        cell = {k: v for k, v in self.asked.cell.items() if k not in ("framework", "budget")}
        code = {k: v for k, v in self.identity["code"].items() if k != "framework"}
        return {"cell": cell, "identity": {**self.identity, "code": code}}

    def key(self) -> str:
        """What parts must have in common to be joined."""
        return digest({**self.basis(), "test_images": self.asked.test_images})


def length_of_parts(choices: tuple[Choice, ...], most: int = PART) -> int:
    """Policies of a part: all that share their first decisions, as few of these as need be."""
    counts = [len(choice.bits) for choice in choices]
    fixed = 0
    while prod(counts[fixed:]) > most:
        fixed += 1
    return prod(counts[fixed:])
