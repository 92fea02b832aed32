"""What the scripts share: the suite's network, images and budget, and the file of a policy.

They run where a toolkit and juxtabit are both installed, in an environment of the toolkit's own.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.suite.config import Cell, cell_of, composed
from benchmarks.suite.ground import Ground, ground_of
from benchmarks.suite.objective import DEFAULT, objective_of
from benchmarks.suite.options.budgets import budget_spec
from benchmarks.suite.setting import Setting, setting_of
from frameworks import AnsweredSplit, Budget, Layer, Policy, Split, describe


@dataclass(frozen=True)
class Task:
    """What a toolkit is to search.

    Attributes:
        layers: the quantizable layers; the protocol pins the first and the last one at 8 bits.
        budget: the limit, as the suite resolves it.
        out: the file of the policy.
        protocol: the suite's; its objective says whether there are labels.
        scores: where a toolkit keeps what it estimated, for other budgets; None: nowhere.
    """

    ground: Ground
    setting: Setting
    layers: tuple[Layer, ...]
    budget: Budget
    out: Path
    protocol: Mapping[str, Any]
    scores: Path | None

    @property
    def network(self) -> nn.Module:
        """The float network, in eval mode."""
        return self.ground.network

    def labelled(self, count: int) -> Split:
        """Random training images with labels: where there are none, the network's answers."""
        drawn = self.ground.splits.train.subset(count, torch.Generator().manual_seed(0))
        free = objective_of(self.protocol) != DEFAULT
        return AnsweredSplit(drawn, self.network, keep=True) if free else drawn

    def images(self, count: int) -> Tensor:
        """Unlabelled training images ``[N, C, H, W]``."""
        return self.ground.splits.train.images(count)

    @contextlib.contextmanager
    def kept(self) -> Iterator[Path]:
        """The folder of a toolkit's estimates: ``--scores``, or one for this run alone."""
        if self.scores:
            self.scores.mkdir(parents=True, exist_ok=True)
            yield self.scores
            return
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)

    def within(self, bits: Mapping[str, tuple[int, int]]) -> bool:
        """Whether weight and activation bits by layer are within the budget."""
        return self.budget.allows(self.setting.target.cost(self.layers, Policy(bits)))

    def write(self, package: str, bits: Mapping[str, tuple[int, int]], **notes: object) -> None:
        """Write the weight and activation bits by layer, which `framework=given` reads.

        Of the notes, ``seconds`` and ``images`` are what the search cost, which tables show.
        """
        policy = {layer.name: dict(zip(("weight", "act"), bits[layer.name], strict=True))
                  for layer in self.layers}  # fmt: skip
        found = {"toolkit": package, "version": importlib.metadata.version(package), **notes}
        self.out.write_text(json.dumps({**found, "policy": policy}, indent=1) + "\n")
        print(f"{self.out}: {' '.join(f'{w}/{a}' for w, a in bits.values())}")


def task(*hardware: str) -> Task:
    """The task that the command line asks for, on one of some targets."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--like", type=float, default=3, help="budget: so many uniform bits")
    parser.add_argument("--hardware", choices=hardware, default=hardware[0])
    parser.add_argument("--model", default="resnet8")
    parser.add_argument("--dataset", default="fashion_mnist")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--scores", type=Path, help="folder of estimates, for several budgets")
    parser.add_argument("overrides", nargs="*", help="more keys, such as dataset.root=FOLDER")
    asked = parser.parse_args()
    choices = [f"model={asked.model}", f"dataset={asked.dataset}", f"hardware={asked.hardware}"]
    choices += [f"budget.like={asked.like}", *asked.overrides]
    cell: Cell = cell_of(composed(choices))
    ground = ground_of(cell, lambda done, total, text: None)
    layers = describe(ground.network, ground.splits.input_shape)
    setting = setting_of(cell, layers)
    budget = budget_spec(cell).resolve(setting.target, setting.space)
    return Task(ground, setting, layers, budget, asked.out, cell["protocol"], asked.scores)
