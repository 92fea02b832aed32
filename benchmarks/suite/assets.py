"""Data, layers and checkpoints of cells, kept between the cells of a process.

Entries of a cell (``cell["dataset"]``, ``cell["model"]``) come as text, which caches can hash.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.data.load import DatasetConfig, Splits, load
from benchmarks.fingerprints.named_files import by_content, names_code
from benchmarks.fingerprints.numerics import numerics, place
from benchmarks.models.build import ModelConfig
from benchmarks.models.ingredients import data_of, model_code
from benchmarks.models.pretrain import (
    Checkpoint,
    Start,
    accuracy_here,
    float_network,
    pretrained,
    start_of,
)
from frameworks import (
    Accounting,
    Layer,
    QModel,
    account,
    describe,
    folder_state,
    observe,
    schemes,
    torch_rng,
)

Progress = Callable[[int, int, str], None]


def entry_text(entry: dict[str, Any]) -> str:
    """A cell's entry as the key of a cache."""
    return json.dumps(entry, sort_keys=True)


def _state(dataset: str) -> str:
    """What changes when a file of a dataset's root does, so that nothing kept outlives it."""
    root = json.loads(dataset).get("root")
    return folder_state(Path(root).expanduser()) if root else ""


def _files(model: str) -> dict[str, str]:
    """The digests of the files that a model's entry names, and the code of one in a file.

    Its checkpoint is among them, and what the code imports from beside it.
    """
    entry: dict[str, Any] = json.loads(model)
    found: dict[str, str] = {}
    by_content(entry, "model", found)
    if names_code(name := entry.get("name", "")):
        found["model.name"] = entry_text(model_code(name))
    return found


def splits_of(text: str) -> Splits:
    """The splits of a dataset's `entry_text`, as its files are now."""
    return _splits(text, _state(text))


@lru_cache(maxsize=2)
def _splits(text: str, state: str) -> Splits:
    return load(DatasetConfig(**json.loads(text)))


def splits_here(text: str) -> Splits:
    """The splits of a dataset's `entry_text` where this process computes."""
    device = place().device
    return splits_of(text) if device.type == "cpu" else _splits_on(text, _state(text), device)


@lru_cache(maxsize=2)
def _splits_on(text: str, state: str, device: torch.device) -> Splits:
    return _splits(text, state).to(device)


def data_identity(text: str) -> dict[str, Any]:
    """A dataset's data by its `entry_text`; see `benchmarks.models.ingredients.data_of`."""
    return dict(_data(text, _state(text)))


@lru_cache(maxsize=64)
def _data(text: str, state: str) -> dict[str, Any]:
    return data_of(_splits(text, state), DatasetConfig(**json.loads(text)))


def fingerprint_of(text: str) -> str:
    """The fingerprint of a dataset's `entry_text`."""
    return str(data_identity(text)["fingerprint"])


def start_from(model: str, dataset: str) -> Start:
    """Where the float network of a model's and a dataset's `entry_text` comes from.

    Raises:
        ValueError, MissingData: see `benchmarks.models.pretrain.start_of`; the data are not there.
    """
    configs = ModelConfig(**json.loads(model)), DatasetConfig(**json.loads(dataset))
    return start_of(*configs, lambda: fingerprint_of(dataset))


def checkpoint_of(model: str, dataset: str, reporter: Reporter) -> tuple[Checkpoint, float]:
    """The float checkpoint and its accuracy on the test split."""
    start = start_from(model, dataset).facts()
    basis = json.dumps([_state(dataset), _files(model), numerics(), start])
    return _checkpoint(model, dataset, basis, reporter)


@lru_cache(maxsize=2)
def _checkpoint(
    model: str, dataset: str, basis: str, reporter: Reporter
) -> tuple[Checkpoint, float]:
    splits = splits_of(dataset)
    checkpoint = pretrained(
        ModelConfig(**json.loads(model)),
        DatasetConfig(**json.loads(dataset)),
        splits,
        reporter.progress,
    )
    return checkpoint, accuracy_here(checkpoint.model, splits_here(dataset).test)


@dataclass(frozen=True, eq=False)
class Reporter:
    """A progress callback that does not take part in the caches' keys."""

    progress: Progress

    def __hash__(self) -> int:
        return 0

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Reporter)


def layers_of(model: str, dataset: str) -> tuple[Layer, ...]:
    """The layers of a model on a dataset, without training it."""
    return taken_of(model, dataset)[0]


def taken_of(model: str, dataset: str) -> tuple[tuple[Layer, ...], Accounting]:
    """The layers of a model on a dataset, and its weights accounted for, without training it.

    Raises:
        ValueError: the model cannot be quantized; the message names it and the layer.
    """
    return _taken(model, dataset, _state(dataset), entry_text(_files(model)))


@lru_cache(maxsize=8)
def _taken(
    model: str, dataset: str, state: str, files: str
) -> tuple[tuple[Layer, ...], Accounting]:
    splits, config = _splits(dataset, state), ModelConfig(**json.loads(model))
    return inspected(float_network(config, splits), splits, f"model {config.name}")


def inspected(
    network: nn.Module, splits: Splits, where: str
) -> tuple[tuple[Layer, ...], Accounting]:
    """The layers of a network, and its weights accounted for.

    Raises:
        ValueError: it cannot be quantized; the message begins with ``where``.
    """
    try:
        layers = describe(network, splits.input_shape)
        images = splits.valid.images(2)
        seen = observe(network, layers, images, torch_rng(0, "probe"))
        QModel(network, layers, schemes.get("minmax")(), seen)
        return layers, account(network, layers, splits.input_shape)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def forget() -> None:
    """Empty the caches."""
    for cached in (_splits, _splits_on, _data, _checkpoint, _taken):
        cached.cache_clear()
