"""Datasets that stay on disk: any ImageFolder, and any scheme of ``timm.data.create_dataset``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.data import (
    CorruptData,
    DatasetConfig,
    MissingData,
    Splits,
    cut_order,
    cut_size,
    register_dataset,
)
from frameworks import DatasetSplit


def _on_disk(config: DatasetConfig, make: Callable[[bool, Any], Any], name: str) -> Splits:
    """Splits of a dataset that stays on disk, under timm's transforms.

    ``make(train, transform)`` opens the training or the test part.
    """
    from timm.data import create_transform

    size = (3, config.image_size, config.image_size)
    plain = create_transform(size, is_training=False)
    train, augmented = make(True, plain), make(True, create_transform(size, is_training=True))
    test = make(False, plain)
    share = cut_size(len(train), config.valid) / len(train)
    whole = DatasetSplit(train, augmented=augmented, name=name, workers=config.workers)
    unchanged = DatasetSplit(train, name=name, workers=config.workers)
    return Splits(
        whole.halves(share, cut_order())[1],
        unchanged.halves(share, cut_order())[0],
        DatasetSplit(test, name=f"{name}/test", workers=config.workers),
        max(int(label) for label in _labels(train)) + 1,
        size,
    )


def _labels(dataset: Any) -> list[int]:
    if hasattr(dataset, "targets"):
        return list(dataset.targets)
    if hasattr(dataset, "reader") and hasattr(dataset.reader, "samples"):
        return [label for _, label in dataset.reader.samples]
    return [int(dataset[i][1]) for i in range(len(dataset))]


@register_dataset
def imagefolder(config: DatasetConfig) -> Splits:
    """Any ImageFolder: ``root/train/CLASS/*`` and ``root/val/CLASS/*`` (or ``test``)."""
    from torchvision.datasets import ImageFolder

    if not config.root:
        raise MissingData(f"dataset {config.name}: name its folder with dataset.root=PATH")
    root = Path(config.root).expanduser()
    tests = [root / part for part in ("val", "test", "validation")]
    test = next((folder for folder in tests if folder.is_dir()), None)
    if not (root / "train").is_dir() or test is None:
        raise MissingData(
            f"dataset {config.name} was looked for in {root}: it needs the folders train/ and val/ "
            "with one folder of images for each class"
        )

    if _folders(root / "train") != _folders(test):
        raise CorruptData(
            f"{test} has other classes than {root / 'train'}: "
            f"{', '.join(sorted(_folders(root / 'train') ^ _folders(test)))}"
        )

    def make(train: bool, transform: Any) -> Any:
        folder = root / "train" if train else test
        try:
            return ImageFolder(str(folder), transform)
        except (FileNotFoundError, RuntimeError) as error:
            raise CorruptData(f"{folder} holds no readable class folders: {error}") from error

    return _on_disk(config, make, f"imagefolder:{root.name}")


def _folders(root: Path) -> set[str]:
    return {entry.name for entry in root.iterdir() if entry.is_dir()}


@register_dataset
def imagenet(config: DatasetConfig) -> Splits:
    """ImageNet (ILSVRC 2012), as an ImageFolder."""
    return imagefolder(config)


@register_dataset
def timm(config: DatasetConfig) -> Splits:
    """Any scheme of ``timm.data.create_dataset``: ``torch/``, ``hfds/``, ``tfds/``, a folder."""
    from timm.data import create_dataset

    if not config.scheme:
        raise ValueError("dataset.scheme: name timm's scheme, such as torch/cifar10 or hfds/mnist")

    def make(train: bool, transform: Any) -> Any:
        try:
            dataset = create_dataset(
                config.scheme,
                root=config.root,
                split="train" if train else "validation",
                is_training=train,
                download=config.download,
                transform=transform,
            )
        except Exception as error:
            raise MissingData(
                f"timm could not open {config.scheme!r} in {config.root}: {error}"
            ) from error
        if getattr(dataset, "transform", None) is None:
            dataset.transform = transform
        return dataset

    return _on_disk(config, make, f"timm:{config.scheme}")
