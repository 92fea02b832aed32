"""Schemes of ``timm.data.create_dataset`` that are no tree of folders: ``torch/``, ``hfds/``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.data import Dataset

from benchmarks.data.load import CorruptData, DatasetConfig, MissingData
from benchmarks.data.ondisk import OnDisk
from benchmarks.data.pictures import Pictures, loaded

SCHEMES = ("torch", "hfds")
STREAMS = ("hfids", "tfds", "wds")
SPLITS = {"train": "train", "test": "validation"}
"""timm's names of the parts."""


def open_scheme(config: DatasetConfig) -> OnDisk:
    """Open the training and the validation part of a scheme.

    Raises:
        MissingData: timm cannot open it.
        ValueError: it streams its images.
        CorruptData: the parts number their classes in different ways.
    """
    opened = {part: _opened(config, split) for part, split in SPLITS.items()}
    maps = [_class_map(dataset) for dataset in opened.values()]
    if maps[0] != maps[1]:
        raise CorruptData(
            f"dataset.scheme {config.scheme}: training and validation part number their classes "
            "in different ways; use a folder with train/ and val/"
        )
    labels = {part: _labels(dataset) for part, dataset in opened.items()}
    classes = list(maps[0]) or [str(i) for i in range(max(labels["train"]) + 1)]
    return OnDisk(
        classes, labels, lambda part, how: _SchemeImages(opened[part], how, str(config.scheme))
    )


class _SchemeImages(Dataset[Any]):
    """A scheme's images, brought to 8-bit RGB as files are."""

    def __init__(self, dataset: Any, transform: Any, name: str) -> None:
        self.dataset, self.transform, self.name = dataset, transform, name

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        where = f"{self.name}, image {index}"
        # Not through timm's dataset, which puts the next image in the place of a broken one.
        reader = getattr(self.dataset, "reader", None)
        try:
            image, label = (self.dataset if reader is None else reader)[index]
        except (OSError, SyntaxError) as error:
            raise CorruptData(f"{where} cannot be read: {error}; get it again") from error
        picture = image if reader is None else loaded(image, where)
        return self.transform(Pictures().rgb(picture, where)), int(label)


def _opened(config: DatasetConfig, split: str) -> Any:
    from timm.data import create_dataset

    if str(config.scheme).lower().partition("/")[0] in STREAMS:
        raise ValueError(
            f"dataset.scheme: {config.scheme} streams its images, which cannot be cut or drawn "
            "from; use hfds/..., torch/... or a folder"
        )
    try:
        return create_dataset(
            config.scheme, root=config.root, split=split, download=config.download
        )
    except Exception as error:
        raise MissingData(
            f"timm could not open {config.scheme!r} ({split}) in {config.root}: {error}"
        ) from error


def _class_map(dataset: Any) -> dict[str, int]:
    known = getattr(getattr(dataset, "reader", dataset), "class_to_idx", None) or {}
    return {str(k): int(v) for k, v in sorted(known.items(), key=lambda entry: entry[1])}


def _labels(dataset: Any) -> Sequence[int]:
    if hasattr(dataset, "targets"):
        # QMNIST's have further columns.
        labels = torch.as_tensor(dataset.targets).reshape(len(dataset), -1)[:, 0]
    elif hasattr(dataset, "reader") and hasattr(dataset.reader, "iter_targets"):
        labels = torch.as_tensor(list(dataset.reader.iter_targets()))
    else:
        labels = torch.as_tensor([int(dataset[i][1]) for i in range(len(dataset))])
    return [int(label) for label in labels]
