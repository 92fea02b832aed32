"""How images that stay on disk become a network's input: as the network's own weights expect.

Keys of ``dataset`` that are null stand for the model's own values, from timm's ``pretrained_cfg``:

- ``image_size`` whatever its weights, or 224 where it says none;
- ``classes`` of images without labels;
- ``mean``, ``std``, ``interpolation``, ``crop_pct``, ``crop_mode`` where it has published weights
  or a checkpoint; a network trained from scratch gets ImageNet's statistics, bilinear sampling and
  a central crop of 0.875.

Numbers given in the configuration win, each for itself.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from torch import nn

from benchmarks.data.transforms import SCRATCH
from benchmarks.fingerprints.named_files import names_code, split_code
from benchmarks.models.build import ModelConfig, create, pretrained_cfg
from benchmarks.models.ingredients import model_code
from benchmarks.models.weights import read_weights

UNLABELLED = "unlabelled"
CLASSES = 1000
"""ImageNet's, of a network that does not say how many it tells apart."""
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
    own = _own_of(model)
    if dataset["name"] == UNLABELLED:
        classes = dataset.get("classes") or classes_of(ModelConfig(**model))
        dataset = {**dataset, "classes": classes}
    values = {key: dataset[key] if dataset.get(key) is not None else own[key] for key in own}
    return {**cell, "dataset": {**dataset, **values}}


def prepared_as(cfg: Mapping[str, Any] | None) -> dict[str, Any]:
    """How images are prepared for a network with these facts of timm's, or for one with none."""
    if not cfg:
        return {"image_size": 224, **SCRATCH}
    from timm.data import resolve_data_config

    found = resolve_data_config(pretrained_cfg=dict(cfg))
    return {"image_size": found["input_size"][-1], **_of_weights(found)}


def _of_weights(found: Mapping[str, Any]) -> dict[str, Any]:
    own = {key: found[key] for key in SCRATCH}
    # One value stands for all channels.
    return {**own, **{key: [*own[key]] * (3 // len(own[key])) for key in ("mean", "std")}}


def classes_of(config: ModelConfig) -> int:
    """How many classes a network tells apart: by its weights, or else as it is published."""
    known = int(pretrained_cfg(config).get("num_classes") or CLASSES)
    path = Path(config.checkpoint).expanduser() if config.checkpoint else None
    if path is None or not path.is_file():
        return known
    made = create(replace(config, pretrained=False, checkpoint=None), known, (3, *_side(config)))
    try:
        state = read_weights(path, made.state_dict().keys())
    except Exception:  # said with more words where the weights are loaded
        return known
    # A head of other weights has the same name, and is the one tensor that the number shapes.
    last = [name for name, module in made.named_modules() if isinstance(module, nn.Linear)]
    heads = (state.get(f"{name}.weight") for name in reversed(last))
    found = next((head for head in heads if head is not None), None)
    return known if found is None else len(found)


def _side(config: ModelConfig) -> tuple[int, int]:
    side = _own_of(asdict(config))["image_size"]
    return side, side


def _own_of(model: dict[str, Any]) -> dict[str, Any]:
    """The values of a model's entry; of one in a file, as its code is now."""
    name = model.get("name", "")
    # A file that is not there is said with more words where the network is made.
    there = names_code(name) and Path(split_code(name)[0]).expanduser().is_file()
    code = json.dumps(model_code(name), sort_keys=True) if there else ""
    return _own(json.dumps(model, sort_keys=True), code)


@lru_cache(maxsize=64)
def _own(model: str, code: str) -> dict[str, Any]:
    config = ModelConfig(**json.loads(model))
    cfg, found = pretrained_cfg(config), {"input_size": (3, 224, 224)}
    if cfg:
        from timm.data import resolve_data_config  # it takes seconds

        found = resolve_data_config(pretrained_cfg=cfg)
    size = config.options.get("img_size") or found["input_size"][1:]
    height, width = (size, size) if isinstance(size, int) else size
    if height != width:
        raise ValueError(
            f"model {config.name} takes images of {height} x {width}, and those of a data set are "
            "square; set dataset.image_size"
        )
    own: dict[str, Any] = {"image_size": height, **SCRATCH}
    if cfg and (config.pretrained or config.checkpoint):
        own |= _of_weights(found)
    return own
