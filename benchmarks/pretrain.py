"""Pretrained checkpoints: made once for each (model, dataset, recipe), kept as safetensors."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from textwrap import shorten

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save
from torch import nn

from benchmarks.cache import cache_folder, locked, untrusted
from benchmarks.data import DatasetConfig, Splits
from benchmarks.ingredients import checkpoint_facts
from benchmarks.models import ModelConfig, create
from benchmarks.network_check import PROBES, check_network
from benchmarks.recipes import RecipeConfig, recipe_of
from benchmarks.record import digest
from benchmarks.store import write_bytes
from frameworks import Recipe, first_nonfinite, fit, measure, seeded, torch_rng

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Checkpoint:
    """A float network ready to be quantized."""

    model: nn.Module
    accuracy: float
    """Top-1 on the search-validation split, in percent."""
    fingerprint: str


def recipe_for(model: ModelConfig, dataset: DatasetConfig) -> Recipe:
    """The dataset's pretraining recipe with the model's changes."""
    base = dataset.pretrain
    entries = asdict(base) if isinstance(base, RecipeConfig) else dict(base)
    return recipe_of({**entries, **model.pretrain}, "pretrain")


def fingerprint(model: nn.Module) -> str:
    """A digest of the weights and buffers."""
    found = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        found.update(name.encode())
        found.update(value.detach().contiguous().cpu().numpy().tobytes())
    return found.hexdigest()[:16]


def pretrained(
    model_config: ModelConfig,
    dataset_config: DatasetConfig,
    splits: Splits,
    progress: Progress = lambda done, total, text: None,
) -> Checkpoint:
    """The float checkpoint of a model on a dataset, trained if it is not in the cache.

    Parallel workers that need the same one wait for the first to finish it.

    Raises:
        FileNotFoundError: ``model.checkpoint`` names no file.
        ValueError: the checkpoint does not fit the model.
    """
    model = float_network(model_config, splits)
    if not (model_config.checkpoint or model_config.pretrained):
        recipe = recipe_for(model_config, dataset_config)
        path = _path(model_config, dataset_config, splits, recipe)
        with locked(path):
            if not _cached(model, path):
                # Anew, as a broken file may have been loaded in part.
                model = create(model_config, splits.classes, splits.input_shape)
                try:
                    _train(model, splits, recipe, progress)
                except FloatingPointError as error:
                    raise _diverged(model_config, dataset_config, recipe, error) from error
                _keep(model, path)
    model.eval()
    accuracy = measure(model, splits.valid).accuracy
    return Checkpoint(model, accuracy, fingerprint(model))


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
    with seeded(0, "pretrain"):
        fit(
            model,
            splits.train,
            recipe,
            torch_rng(0, "pretrain"),
            on_epoch=lambda done, total, loss: progress(
                done, total, f"pretraining, loss {loss:.3f}"
            ),
        )


def _path(model: ModelConfig, dataset: DatasetConfig, splits: Splits, recipe: Recipe) -> Path:
    name = digest(checkpoint_facts(model, dataset, splits, recipe))[:12]
    return cache_folder() / "checkpoints" / f"{model.name}-{dataset.name}-{name}.safetensors"


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
        write_bytes(path, save(_contiguous(model), _mark(model, path)))
    except OSError as error:
        warnings.warn(f"the checkpoint is trained anew each time: {error}", stacklevel=3)


def _mark(model: nn.Module, path: Path) -> dict[str, str]:
    """What a file of the cache says of itself: its weights, and what they were made for."""
    return {"fingerprint": fingerprint(model), "name": path.name}


def _contiguous(model: nn.Module) -> dict[str, torch.Tensor]:
    return {k: v.detach().clone(memory_format=torch.contiguous_format)
            for k, v in model.state_dict().items()}  # fmt: skip


def _load(model: nn.Module, path: Path) -> None:
    if not path.is_file():
        raise FileNotFoundError(f"model.checkpoint: there is no file {path}")
    try:
        model.load_state_dict(load_file(path))
    except Exception as error:
        # torch lists every key, on a line each.
        fault = shorten(str(error), 200, placeholder=" ...")
        raise ValueError(f"checkpoint {path} does not fit the model: {fault}") from error
    if name := first_nonfinite(model):
        raise ValueError(f"checkpoint {path}: {name} has NaN or infinite values; make it anew")
