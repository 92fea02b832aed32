"""Which statistics should BatchNorm have after training at a few bits? Ways compared.

    python -m benchmarks.studies.trained_statistics --out results/batchnorm

ResNet-8 is fine-tuned on Fashion-MNIST at uniform bits (the first and the last layer 8) by the
recipe of the committed ``controlled`` cells, and each network is scored on the search-validation
images with its running statistics as training left them (`as trained`), with statistics taken in
execution order in eval mode over plain or augmented training images (`in order`), and with averages
of batch statistics collected in training mode at the final weights (`in training mode`). Networks
that are in the output already are not trained again.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from benchmarks.records.store import read_json, write_json, write_text
from benchmarks.studies.batchnorm import policy_of
from benchmarks.suite.cell import Run
from benchmarks.suite.config import composed, suite_cells
from frameworks import Policy, QModel, Split, measure, reestimate_batchnorm, torch_rng

SEEDS = (0, 1, 2)
BITS = ((8, 8), (4, 4), (3, 2), (2, 3), (2, 2))
BATCH = 128

Way = Callable[[nn.Module, Split, int], None]
"""Gives a trained network its statistics, from the training images, for a seed."""


def in_order(count: int, augment: bool = False) -> Way:
    """Over so many images, in eval mode and execution order."""

    def way(model: nn.Module, train: Split, seed: int) -> None:
        reestimate_batchnorm(model, drawn(train, count, seed, augment))

    return way


def in_training_mode(count: int, augment: bool = False) -> Way:
    """The mean of the statistics of batches that are normalised by themselves."""

    @torch.no_grad()
    def way(model: nn.Module, train: Split, seed: int) -> None:
        for norm in model.modules():
            if isinstance(norm, _BatchNorm):
                norm.reset_running_stats()
                norm.momentum = None  # a plain mean
        model.train()
        for batch in torch.split(drawn(train, count, seed, augment), BATCH):
            model(batch)
        model.eval()

    return way


WAYS: Mapping[str, Way] = {
    "as trained": lambda *_: None,
    "in order, 512": in_order(512),
    "in order, 4096": in_order(4096),
    "in order, 4096 augmented": in_order(4096, augment=True),
    "in training mode, 4096": in_training_mode(4096),
    "in training mode, 4096 augmented": in_training_mode(4096, augment=True),
}


def drawn(train: Split, count: int, seed: int, augment: bool) -> Tensor:
    """Training images ``[count, C, H, W]``."""
    generator = torch_rng(seed, "statistics of trained networks")
    part = train.subset(count, generator)
    return torch.cat([x for x, _ in part.batches(BATCH, generator, augment=augment)])


def trained(seed: int, weight: int, act: int) -> tuple[QModel, Run]:
    """ResNet-8 fine-tuned at uniform bits as ``controlled`` does, its statistics as trained."""
    config = composed(["+suite=fashion_mnist"])
    cells = (c for c in suite_cells(config) if c["protocol"]["name"] == "controlled")
    cell = next(c for c in cells if c["framework"]["name"] == "uniform" and c["seed"] == seed)
    cell = {**cell, "protocol": {**cell["protocol"], "bn": "stored"}}
    run = Run.aside(cell)
    problem = run.problem()
    policy: Policy = policy_of(problem.layers, weight, act)
    return problem.fine_tune(policy), run


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """The table: a line for each network, then means."""
    lines = ["# BatchNorm's statistics after training", ""]
    lines += [line.rstrip() for line in (__doc__ or "").split("\n\n", 2)[2].strip().splitlines()]
    ways = list(WAYS)
    lines += ["", f"| bits | seed | {' | '.join(ways)} |", "|---" * (len(ways) + 2) + "|"]
    for row in rows:
        cells = " | ".join(f"{row['accuracy'][way]:.2f}" for way in ways)
        lines.append(f"| {row['bits']} | {row['seed']} | {cells} |")
    means = [math.fsum(row["accuracy"][way] for row in rows) / len(rows) for way in ways]
    lowest = [min(row["accuracy"][way] - _best(row) for row in rows) for way in ways]
    lines.append(f"| mean | | {' | '.join(f'{value:.2f}' for value in means)} |")
    lines.append(f"| furthest from the best | | {' | '.join(f'{x:.2f}' for x in lowest)} |")
    return "\n".join([*lines, ""])


def _best(row: Mapping[str, Any]) -> float:
    return max(map(float, row["accuracy"].values()))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.studies.trained_statistics")
    parser.add_argument("--out", type=Path, default=Path("results/batchnorm"))
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)
    path = chosen.out / "trained.json"
    rows: list[dict[str, Any]] = read_json(path)["rows"] if path.exists() else []
    have = {(row["bits"], row["seed"]) for row in rows}
    for (weight, act), seed in itertools.product(BITS, SEEDS):
        bits = f"W{weight}A{act}"
        if (bits, seed) in have:
            continue
        model, run = trained(seed, weight, act)
        found = {}
        for name, way in WAYS.items():
            made = copy.deepcopy(model)
            way(made, run.splits.train, seed)
            found[name] = measure(made, run.splits.valid).accuracy
        rows.append({"bits": bits, "seed": seed, "accuracy": found})
        write_json(path, {"rows": rows})
        print(bits, seed, found, file=sys.stderr, flush=True)
    write_text(chosen.out / "trained.md", markdown(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
