"""Datasets and their three splits: train, search-validation (cut from train) and test.

The cut is fixed, the same for every seed, so that one pretrained checkpoint serves all seeds and
has never seen the search-validation images.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import torch
from torch import Tensor

from benchmarks.data.recipes import RecipeConfig
from frameworks import Registry, Split, TensorSplit, torch_rng


class MissingData(FileNotFoundError):
    """A dataset is not where it was looked for; the message says where and how to get it."""


class CorruptData(ValueError):
    """A dataset is there but cannot be read."""


@dataclass
class DatasetConfig:
    """Where a dataset is and how it is cut.

    Attributes:
        name: a registered dataset, or ``timm`` for any scheme of ``timm.data.create_dataset``.
        root: folder of the files; None for the usual places.
        classes: for ``unlabelled``: how many the network tells apart; null stands for its own.
        scheme: for ``timm``: the name given to ``create_dataset`` (``torch/cifar10``, ...).
        valid: images (or, below 1, the share of the training images) cut off for searching.
            Where a folder has ``val/`` beside ``test/``, searches see ``val/`` and none is cut.
        image_size: side of the images, for datasets that stay on disk, as are the next five. Null
            stands for the model's own value: see `benchmarks.models.preprocessing`.
        mean: of the three channels, subtracted from values in 0..1.
        std: of the three channels.
        interpolation: how images are resized: ``bilinear``, ``bicubic``, ...
        crop_pct: side of the crop relative to the resized image's.
        crop_mode: ``center``, ``squash`` or ``border`` of timm's transforms.
        download: let torchvision or timm fetch what is missing.
        workers: reading processes, for datasets that stay on disk.
        memory: GiB that their decoded images may take in each process; splits (and parts of them)
            that fit are read once, others anew in each pass.
        pretrain: the pretraining recipe of models on this dataset (see `frameworks.Recipe`).
    """

    name: str = "digits"
    root: str | None = None
    scheme: str | None = None
    valid: float = 0.2
    image_size: int | None = None
    mean: list[float] | None = None
    std: list[float] | None = None
    interpolation: str | None = None
    crop_pct: float | None = None
    crop_mode: str | None = None
    download: bool = False
    workers: int = 0
    memory: float = 1.0
    pretrain: RecipeConfig = field(default_factory=RecipeConfig)
    classes: int | None = None

    @property
    def side(self) -> int:
        """``image_size``, or 224 where no model has filled it in."""
        return 224 if self.image_size is None else self.image_size


@dataclass(frozen=True)
class Splits:
    """A dataset, cut in three."""

    train: Split
    valid: Split
    test: Split
    classes: int
    input_shape: tuple[int, int, int]

    def to(self, device: torch.device) -> Splits:
        """The same images, handed out on a device."""
        train, valid, test = (part.to(device) for part in (self.train, self.valid, self.test))
        return replace(self, train=train, valid=valid, test=test)

    def fingerprint(self) -> str:
        """Digests of the three splits."""
        return "-".join(part.fingerprint() for part in (self.train, self.valid, self.test))


Loader = Callable[[DatasetConfig], Splits]
Named = TypeVar("Named", bound=Loader)
datasets: Registry[Loader] = Registry(
    "dataset",
    "juxtabit.datasets",
    ["benchmarks.data"],
    decorator="register_dataset",
    entries="function",
)


def register_dataset(loader: Named) -> Named:
    """Decorator: make a loader known under its function's name."""
    datasets.add(loader.__name__, loader)
    return loader


def load(config: DatasetConfig) -> Splits:
    """Load a dataset.

    Raises:
        UnknownName: no such dataset.
        ValueError: a key has a value that none can have; the message names it.
        MissingData: its files are not there.
        CorruptData: its files cannot be read, or are no images with class numbers.
    """
    _check_reading(config)
    splits = datasets.get(config.name)(config)
    for part in ("train", "valid", "test"):
        split = getattr(splits, part)
        if isinstance(split, TensorSplit):
            _check_tensors(split, splits, f"dataset {config.name}, {part} images")
    return splits


def _check_reading(config: DatasetConfig) -> None:
    """Before anything is read: torch would fail in the midst of it, and name no key."""
    if config.workers < 0:
        raise ValueError(
            f"dataset.workers = {config.workers}: give a whole number from 0, which reads in the "
            "process itself"
        )
    if not config.memory >= 0:  # nor is it NaN
        raise ValueError(
            f"dataset.memory = {config.memory}: give GiB from 0, which keeps no decoded images"
        )


def _check_tensors(split: TensorSplit, splits: Splits, where: str) -> None:
    shape = tuple(split.x.shape[1:])
    if shape != splits.input_shape or split.x.dtype != torch.float32:
        raise CorruptData(
            f"{where}: {split.x.dtype} of shape {shape}, not torch.float32 of "
            f"{splits.input_shape}; let the loader convert them"
        )
    if not split.x.isfinite().all():
        raise CorruptData(f"{where}: some hold NaN or infinite values; remove or mend them")
    check_labels(split.y, splits.classes, where)


def cut_size(count: int, valid: float) -> int:
    """How many of ``count`` training images are cut off for searching.

    Raises:
        ValueError: none would be left on one side.
    """
    size = round(valid if valid >= 1 else valid * count) if math.isfinite(valid) else 0
    if not 0 < size < count:
        raise ValueError(f"dataset.valid = {valid}: cannot cut that from {count} training images")
    return size


def check_labels(labels: Tensor | Sequence[int], classes: int, where: str) -> None:
    """Check that labels are class numbers.

    Raises:
        CorruptData: one is none; the message names ``where`` they stand.
    """
    values = torch.as_tensor(labels)
    if len(values) and not (values.min() >= 0 and values.max() < classes):
        raise CorruptData(
            f"{where}: labels run from {int(values.min())} to {int(values.max())}, those of "
            f"{classes} classes from 0 to {classes - 1}; number the classes from 0"
        )


def cut_order() -> torch.Generator:
    """The generator of the cut: always the same."""
    return torch_rng(0, "search-validation")


def resident(
    x: Tensor, y: Tensor, test_x: Tensor, test_y: Tensor, valid: float, *, pad: int, flip: bool
) -> Splits:
    """Splits of images ``[N, C, H, W]`` in 0..1, normalised by the training images' statistics.

    Raises:
        CorruptData: labels are no class numbers.
        ValueError: nothing is left on a side of the cut.
    """
    classes = int(y.max()) + 1
    if missing := sorted(set(range(max(classes, 2))) - set(y.tolist())):
        raise CorruptData(
            f"no training image has the label {missing[0]}, and the largest is {classes - 1}: two "
            "classes are needed at least, numbered from 0 without gaps"
        )
    check_labels(test_y, classes, "test images")
    # In double precision, so that the single-precision result does not depend on threads.
    mean = x.double().mean((0, 2, 3), keepdim=True)
    std = x.double().std((0, 2, 3), keepdim=True)
    # A channel that is the same everywhere is centred alone.
    mean, std = mean.float(), torch.where(std < 1e-6, 1.0, std).float()
    x, test_x = (x - mean) / std, (test_x - mean) / std
    size = cut_size(len(x), valid)
    order = torch.randperm(len(x), generator=cut_order())
    rest, cut = order[size:], order[:size]
    return Splits(
        TensorSplit(x[rest], y[rest], pad=pad, flip=flip),
        TensorSplit(x[cut], y[cut]),
        TensorSplit(test_x, test_y),
        classes,
        (x.shape[1], x.shape[2], x.shape[3]),
    )
