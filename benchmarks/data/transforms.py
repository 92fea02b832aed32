"""What images that stay on disk go through: timm's transforms, and what they may be told."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.data.load import DatasetConfig

INTERPOLATIONS = ("nearest", "box", "bilinear", "hamming", "bicubic", "lanczos", "random")
SCRATCH: dict[str, Any] = {
    "mean": [0.485, 0.456, 0.406],
    "std": [0.229, 0.224, 0.225],
    "interpolation": "bilinear",
    "crop_pct": 0.875,
    "crop_mode": "center",
}
"""The values without weights: ImageNet's statistics and timm's defaults."""


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
