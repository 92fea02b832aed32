"""Data, layers and checkpoints of cells, kept between the cells of a process.

Entries of a cell (``cell["dataset"]``, ``cell["model"]``) come as text, which caches can hash.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from benchmarks.data import DatasetConfig, Splits, load
from benchmarks.models import ModelConfig
from benchmarks.pretrain import Checkpoint, float_network, pretrained
from frameworks import (
    Accounting,
    Layer,
    QModel,
    account,
    describe,
    measure,
    observe,
    schemes,
    torch_rng,
)

Progress = Callable[[int, int, str], None]


def entry_text(entry: dict[str, Any]) -> str:
    """A cell's entry as the key of a cache."""
    return json.dumps(entry, sort_keys=True)


@lru_cache(maxsize=2)
def splits_of(text: str) -> Splits:
    """The splits of a dataset's `entry_text`."""
    return load(DatasetConfig(**json.loads(text)))


@lru_cache(maxsize=2)
def fingerprint_of(text: str) -> str:
    """The fingerprint of a dataset's `entry_text`."""
    return splits_of(text).fingerprint()


@lru_cache(maxsize=2)
def checkpoint_of(model: str, dataset: str, reporter: Reporter) -> tuple[Checkpoint, float]:
    """The float checkpoint and its accuracy on the test split."""
    splits = splits_of(dataset)
    checkpoint = pretrained(
        ModelConfig(**json.loads(model)),
        DatasetConfig(**json.loads(dataset)),
        splits,
        reporter.progress,
    )
    return checkpoint, measure(checkpoint.model, splits.test).accuracy


@dataclass(frozen=True, eq=False)
class Reporter:
    """A progress callback that does not take part in the caches' keys."""

    progress: Progress

    def __hash__(self) -> int:
        return 0

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Reporter)


@lru_cache(maxsize=8)
def taken_of(model: str, dataset: str) -> tuple[tuple[Layer, ...], Accounting]:
    """The layers of a model on a dataset, and its weights accounted for, without training it.

    Raises:
        ValueError: the model cannot be quantized; the message names it and the layer.
    """
    splits, config = splits_of(dataset), ModelConfig(**json.loads(model))
    network = float_network(config, splits)
    try:
        layers = describe(network, splits.input_shape)
        images = splits.valid.images(2)
        seen = observe(network, layers, images, torch_rng(0, "probe"))
        QModel(network, layers, schemes.get("minmax")(), seen)
        return layers, account(network, layers, splits.input_shape)
    except ValueError as error:
        raise ValueError(f"model {config.name}: {error}") from error


def layers_of(model: str, dataset: str) -> tuple[Layer, ...]:
    """The layers of a model on a dataset, without training it."""
    return taken_of(model, dataset)[0]


def forget() -> None:
    """Empty the caches."""
    for cached in (splits_of, fingerprint_of, checkpoint_of, taken_of):
        cached.cache_clear()
