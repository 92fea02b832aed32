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
from functools import lru_cache
from typing import Any

from benchmarks.data.transforms import SCRATCH
from benchmarks.models.build import ModelConfig, pretrained_cfg

RESIDENT = ("digits", "fashion_mnist", "cifar10", "cifar100")
"""Data sets of small images with sizes and statistics of their own."""


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
