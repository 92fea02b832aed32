"""How images that stay on disk become a network's input: as the network's own weights expect.

Keys of ``dataset`` that are null stand for the model's own values, from timm's ``pretrained_cfg``:

- ``image_size`` whatever its weights, or 224 where it says none;
- ``mean``, ``std``, ``interpolation``, ``crop_pct``, ``crop_mode`` where it has published weights
  or a checkpoint; a network trained from scratch gets ImageNet's statistics, bilinear sampling and
  a central crop of 0.875.

Numbers given in the configuration win, each for itself.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from benchmarks.data import DatasetConfig
from benchmarks.models import ModelConfig, pretrained_cfg

RESIDENT = ("digits", "fashion_mnist", "cifar10", "cifar100")
"""Data sets of small images with sizes and statistics of their own."""
INTERPOLATIONS = ("nearest", "box", "bilinear", "hamming", "bicubic", "lanczos", "random")
SCRATCH: dict[str, Any] = {
    "mean": [0.485, 0.456, 0.406],
    "std": [0.229, 0.224, 0.225],
    "interpolation": "bilinear",
    "crop_pct": 0.875,
    "crop_mode": "center",
}
"""The values without weights: ImageNet's statistics and timm's defaults."""


def resolved(cell: dict[str, Any]) -> dict[str, Any]:
    """A cell whose data set says how its images are prepared, so that its key does, too.

    Raises:
        ValueError: the model's own images are not square.
    """
    dataset, model = cell["dataset"], cell["model"]
    if dataset["name"] in RESIDENT:
        return cell
    own = _own(json.dumps(model, sort_keys=True))
    values = {key: dataset[key] if dataset.get(key) is not None else own[key] for key in own}
    return {**cell, "dataset": {**dataset, **values}}


def transforms(config: DatasetConfig) -> tuple[Any, Any]:
    """The transforms for evaluation and for training, timm's, from a PIL image to ``[3, H, W]``.

    Raises:
        ValueError: a value is out of range; the message names the key.
    """
    from timm.data import create_transform

    values = {k: v for k in SCRATCH if (v := getattr(config, k)) is not None}
    values = {**SCRATCH, **values}
    _check(config.side, values)
    values = {**values, "mean": tuple(values["mean"]), "std": tuple(values["std"])}
    size = (3, config.side, config.side)
    train = {k: v for k, v in values.items() if not k.startswith("crop")}
    return (
        create_transform(size, is_training=False, **values),
        create_transform(size, is_training=True, **train),
    )


def _check(side: int, values: Mapping[str, Any]) -> None:
    faults = {
        "image_size": side if side < 1 else None,
        "crop_pct": values["crop_pct"] if not values["crop_pct"] > 0 else None,
        "std": values["std"] if len(values["std"]) != 3 or min(values["std"]) <= 0 else None,
        "mean": values["mean"] if len(values["mean"]) != 3 else None,
    }
    for key, value in faults.items():
        if value is not None:
            raise ValueError(f"dataset.{key} = {value}: must be positive, of three channels")
    for key, choices in (
        ("interpolation", INTERPOLATIONS),
        ("crop_mode", ("center", "squash", "border")),
    ):
        if values[key] not in choices:
            raise ValueError(f"dataset.{key}: {values[key]!r}; choose from {', '.join(choices)}")


@lru_cache(maxsize=64)
def _own(model: str) -> dict[str, Any]:
    """The values of a model's entry."""
    from timm.data import resolve_data_config

    config = ModelConfig(**json.loads(model))
    cfg = pretrained_cfg(config)
    found = resolve_data_config(pretrained_cfg=cfg) if cfg else {"input_size": (3, 224, 224)}
    size = config.options.get("img_size") or found["input_size"][1:]
    height, width = (size, size) if isinstance(size, int) else size
    if height != width:
        raise ValueError(
            f"model {config.name} takes images of {height} x {width}, and those of a data set are "
            "square; set dataset.image_size"
        )
    own: dict[str, Any] = {"image_size": height, **SCRATCH}
    if cfg and (config.pretrained or config.checkpoint):
        own |= {key: found[key] for key in SCRATCH}
        # One value stands for all channels.
        own |= {k: [*own[k]] * (3 // len(own[k])) for k in ("mean", "std")}
    return own
