"""Data sets that stay on disk, cut in three under timm's transforms."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch.utils.data import Dataset, Subset

from benchmarks.data.load import DatasetConfig, Splits, check_labels, cut_order, cut_size
from benchmarks.data.transforms import transforms
from frameworks import DatasetSplit, Room


@dataclass(frozen=True)
class OnDisk:
    """A data set that has been opened and checked.

    Attributes:
        classes: names by number.
        labels: class numbers of the images of ``train``, ``test`` and perhaps ``valid``.
        make: the images and labels of a part under a transform.
    """

    classes: Sequence[str]
    labels: Mapping[str, Sequence[int]]
    make: Callable[[str, Any], Dataset[Any]]


def cut(data: OnDisk, config: DatasetConfig, name: str) -> Splits:
    """The three splits; search-validation images are cut from the training images if need be.

    Raises:
        ValueError: labels are no class numbers, or nothing is left on a side of the cut.
    """
    for part, labels in data.labels.items():
        check_labels(labels, len(data.classes), f"{name}, {part} images")
    plain, augmented = transforms(config)
    room = Room(config.memory * 2**30)

    def split(part: str, **more: Any) -> DatasetSplit:
        label = name if part == "train" else f"{name}/{part}"
        return DatasetSplit(
            data.make(part, plain), name=label, workers=config.workers, room=room, **more
        )

    train, side = split("train", augmented=data.make("train", augmented)), config.side
    if "valid" in data.labels:
        valid = split("valid")
    else:
        labels = data.labels["train"]
        share = cut_size(len(labels), config.valid) / len(labels)
        valid = split("train").halves(share, cut_order())[0]
        train = train.halves(share, cut_order())[1]
        _tell_lost(train, data, config.valid)
    return Splits(train, valid, split("test"), len(data.classes), (3, side, side))


def _tell_lost(train: DatasetSplit, data: OnDisk, valid: float) -> None:
    """Name the classes that the cut has left without any training image."""
    cut = train.dataset
    assert isinstance(cut, Subset)
    labels, kept = data.labels["train"], cut.indices
    counts = Counter(labels)
    if lost := sorted(set(counts) - {labels[i] for i in kept}):
        names = ", ".join(f"{data.classes[i]} (of {counts[i]})" for i in lost[:4])
        warnings.warn(
            f"dataset.valid = {valid}: the cut leaves no training image of {len(lost)} classes: "
            f"{names}; lower it, or give search-validation images a folder val/ beside test/",
            stacklevel=2,
        )
