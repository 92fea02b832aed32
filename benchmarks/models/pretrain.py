"""Float networks: committed ones, or made once for each (model, dataset, recipe) and kept.

A network starts from its user's file, from timm's published weights, from the file that comes with
the project (see `benchmarks.models.committed`), or from a training here, which the cache keeps.
"""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from safetensors import safe_open
from safetensors.torch import save
from torch import nn

from benchmarks.data.load import DatasetConfig, Splits
from benchmarks.data.recipes import RecipeConfig, recipe_of
from benchmarks.fingerprints.named_files import names_code
from benchmarks.fingerprints.numerics import place
from benchmarks.models import committed
from benchmarks.models.build import ModelConfig, create
from benchmarks.models.ingredients import checkpoint_facts
from benchmarks.models.network_check import PROBES, check_network, check_training
from benchmarks.models.weights import Unreadable, contiguous, fill, fingerprint, read_weights
from benchmarks.records.cache import WAITING, cache_folder, locked, untrusted
from benchmarks.records.record import digest
from benchmarks.records.store import write_bytes
from frameworks import Recipe, Split, copied, fit, measure, placed, seeded, torch_rng

Progress = Callable[[int, int, str], None]
Origin = Literal["file", "timm", "committed", "trained here"]
SEED = 0
"""Of every initialisation and pretraining: one float network serves all seeds of a cell."""


@dataclass(frozen=True)
class Start:
    """Where a float network comes from, known before it is there.

    Attributes:
        origin: the user's ``file``, ``timm``'s published weights, a ``committed`` network, or
            ``trained here``.
        entry: of a committed network.
    """

    origin: Origin
    entry: committed.Entry | None = None

    def facts(self) -> dict[str, str]:
        """What a cell's identity says of it; what else makes a training is elsewhere in there."""
        found = {"origin": str(self.origin)}
        return {**found, "fingerprint": self.entry.fingerprint} if self.entry else found


@dataclass(frozen=True)
class Checkpoint:
    """A float network ready to be quantized."""

    model: nn.Module
    accuracy: float
    """Top-1 on the search-validation split, in percent."""
    fingerprint: str
    origin: Origin


def recipe_for(model: ModelConfig, dataset: DatasetConfig) -> Recipe:
    """The dataset's pretraining recipe with the model's changes."""
    base = dataset.pretrain
    entries = asdict(base) if isinstance(base, RecipeConfig) else dict(base)
    return recipe_of({**entries, **model.pretrain}, "pretrain")


def start_of(model: ModelConfig, dataset: DatasetConfig, data: Callable[[], str]) -> Start:
    """Where the float network of a model on a dataset comes from.

    Args:
        model: the model.
        dataset: the dataset.
        data: gives the fingerprint of its three splits; called only where a committed network may
            be the one.

    Raises:
        ValueError: a recipe with faults, an index of committed networks that cannot be read, or
            ``model.retrain`` for weights that are given.
    """
    if model.retrain and (given := model.given):
        raise ValueError(f"model.retrain: model.{given} gives the weights; leave one of them out")
    if model.given:
        return Start("file" if model.checkpoint else "timm")
    if model.retrain:
        return Start("trained here")
    entry = committed.find(model, recipe_for(model, dataset), SEED, data)
    return Start("committed", entry) if entry else Start("trained here")


def pretrained(
    model_config: ModelConfig,
    dataset_config: DatasetConfig,
    splits: Splits,
    progress: Progress = lambda done, total, text: None,
) -> Checkpoint:
    """The float checkpoint of a model on a dataset, trained if it is neither given nor kept.

    Parallel workers that need the same one wait for the first to finish it.

    Raises:
        FileNotFoundError: ``model.checkpoint`` names no file.
        ValueError: the checkpoint does not fit the model; see `start_of`, too.
        BadCommitted: the committed network is not what was committed.
    """
    model = float_network(model_config, splits)
    start = start_of(model_config, dataset_config, splits.fingerprint)
    if start.entry:
        committed.load_into(model, start.entry)
    elif start.origin == "trained here":
        model = _trained(model, model_config, dataset_config, splits, progress)
    # Without the graphs of what modules keep of a training: every cell copies the network.
    model = copied(model).eval()
    accuracy = accuracy_here(model, splits.valid)
    return Checkpoint(model, accuracy, fingerprint(model), start.origin)


def accuracy_here(model: nn.Module, split: Split) -> float:
    """Top-1 of a network in percent, where this process computes; the network stays where it is."""
    device = place().device
    return measure(placed(copy.deepcopy(model), device), split.to(device)).accuracy


def _trained(
    model: nn.Module,
    model_config: ModelConfig,
    dataset_config: DatasetConfig,
    splits: Splits,
    progress: Progress,
) -> nn.Module:
    """The trained network: the cache's, or made now and kept there."""
    recipe = recipe_for(model_config, dataset_config)
    path = _path(model_config, dataset_config, splits, recipe)
    with locked(path, lambda waits: progress(0, 1, WAITING if waits else "pretraining")):
        if not _cached(model, path):
            # Anew, as a broken file may have been loaded in part.
            model = create(model_config, splits.classes, splits.input_shape)
            name = f"model {model_config.name}"
            check_training(model, splits.train.images(2), splits.classes, name)
            try:
                _train(model, splits, recipe, progress)
            except FloatingPointError as error:
                raise _diverged(model_config, dataset_config, recipe, error) from error
            _keep(model, path)
    return model


def float_network(config: ModelConfig, splits: Splits) -> nn.Module:
    """A model with the weights that it starts from: its user's file, timm's or random ones.

    Everything that can be wrong with it for these images is found here, before any training.

    Raises:
        FileNotFoundError: ``model.checkpoint`` names no file.
        ValueError: the checkpoint does not fit the model, or is no network that can be quantized.
    """
    model = create(config, splits.classes, splits.input_shape)
    if config.checkpoint:
        _load(model, Path(config.checkpoint).expanduser())
    images = splits.train.subset(PROBES, torch_rng(0, "probe")).images()
    check_network(model, images, splits.classes, f"model {config.name}")
    return model


def _diverged(
    model: ModelConfig, dataset: DatasetConfig, recipe: Recipe, error: FloatingPointError
) -> FloatingPointError:
    key = "model.pretrain.lr" if "lr" in model.pretrain else "dataset.pretrain.lr"
    return FloatingPointError(
        f"pretraining {model.name} on {dataset.name}: {error}: lower {key} = {recipe.lr:g}; "
        "no checkpoint was kept"
    )


def _train(model: nn.Module, splits: Splits, recipe: Recipe, progress: Progress) -> None:
    device = place().device
    with seeded(SEED, "pretrain"):
        fit(
            placed(model, device),
            splits.train.to(device),
            recipe,
            torch_rng(SEED, "pretrain"),
            on_epoch=lambda done, total, loss: progress(
                done, total, f"pretraining, loss {loss:.3f}"
            ),
        )
    model.to("cpu")


def _path(model: ModelConfig, dataset: DatasetConfig, splits: Splits, recipe: Recipe) -> Path:
    name = digest(checkpoint_facts(model, dataset, splits, recipe))[:12]
    shown = Path(model.name).stem if names_code(model.name) else model.name
    return cache_folder() / "checkpoints" / f"{shown}-{dataset.name}-{name}.safetensors"


def _cached(model: nn.Module, path: Path) -> bool:
    """Load the cache's file, if it is there and whole; a broken one is made again."""
    if not os.path.lexists(path):
        return False
    try:
        if fault := untrusted(path):
            raise ValueError(f"checkpoint {path}: {fault}")
        _load(model, path)
        with safe_open(path, "pt") as file:
            if file.metadata() != _mark(model, path):
                raise ValueError(f"checkpoint {path} is not what was written")
    except (OSError, ValueError) as error:
        warnings.warn(f"{error}; it is made again", stacklevel=3)
        return False
    return True


def _keep(model: nn.Module, path: Path) -> None:
    """Write a checkpoint so that it is whole or not there; where that cannot be, it is said."""
    try:
        write_bytes(path, save(contiguous(model), _mark(model, path)))
    except OSError as error:
        warnings.warn(f"the checkpoint is trained anew each time: {error}", stacklevel=3)


def _mark(model: nn.Module, path: Path) -> dict[str, str]:
    """What a file of the cache says of itself: its weights, and what they were made for."""
    return {"fingerprint": fingerprint(model), "name": path.name}


def _load(model: nn.Module, path: Path) -> None:
    if not path.is_file():
        raise FileNotFoundError(f"model.checkpoint: there is no file {path}")
    where = f"checkpoint {path}"
    try:
        state = read_weights(path, model.state_dict().keys())
    except Unreadable as error:
        raise ValueError(f"{where} {error}") from error
    except ValueError as error:
        raise ValueError(f"{where} does not fit the model: {error}") from error
    fill(model, state, where)
