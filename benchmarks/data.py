"""Datasets and their three splits: train, search-validation (cut from train) and test.

The cut is fixed, the same for every seed, so that one pretrained checkpoint serves all seeds and
has never seen the search-validation images.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.recipes import RecipeConfig
from frameworks import DatasetSplit, Registry, Split, TensorSplit, torch_rng


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
        scheme: for ``timm``: the name given to ``create_dataset`` (``torch/cifar10``, ...).
        valid: images (or, below 1, the share of the training images) cut off for searching.
        image_size: side of the images, for datasets that stay on disk.
        download: let torchvision or timm fetch what is missing.
        workers: reading processes, for datasets that stay on disk.
        pretrain: the pretraining recipe of models on this dataset (see `frameworks.Recipe`).
    """

    name: str = "digits"
    root: str | None = None
    scheme: str | None = None
    valid: float = 0.2
    image_size: int = 224
    download: bool = False
    workers: int = 0
    pretrain: RecipeConfig = field(default_factory=RecipeConfig)


@dataclass(frozen=True)
class Splits:
    """A dataset, cut in three."""

    train: Split
    valid: Split
    test: Split
    classes: int
    input_shape: tuple[int, int, int]

    def fingerprint(self) -> str:
        """Digests of the three splits."""
        return "-".join(part.fingerprint() for part in (self.train, self.valid, self.test))


Loader = Callable[[DatasetConfig], Splits]
datasets: Registry[Loader] = Registry("dataset", "juxtabit.datasets", [])


def load(config: DatasetConfig) -> Splits:
    """Load a dataset.

    Raises:
        UnknownName: no such dataset.
        MissingData: its files are not there.
        CorruptData: its files cannot be read.
    """
    return datasets.get(config.name)(config)


def _cut(count: int, valid: float) -> tuple[Tensor, Tensor]:
    """Fixed random indices of the training and the search-validation images."""
    size = round(valid if valid >= 1 else valid * count)
    if not 0 < size < count:
        raise ValueError(f"dataset.valid = {valid}: cannot cut that from {count} training images")
    order = torch.randperm(count, generator=torch_rng(0, "search-validation"))
    return order[size:], order[:size]


def _resident(
    x: Tensor, y: Tensor, test_x: Tensor, test_y: Tensor, valid: float, *, pad: int, flip: bool
) -> Splits:
    """Splits of images ``[N, C, H, W]`` in 0..1, normalised by the training images' statistics."""
    mean = x.mean((0, 2, 3), keepdim=True)
    std = x.std((0, 2, 3), keepdim=True)
    x, test_x = (x - mean) / std, (test_x - mean) / std
    rest, cut = _cut(len(x), valid)
    return Splits(
        TensorSplit(x[rest], y[rest], pad=pad, flip=flip),
        TensorSplit(x[cut], y[cut]),
        TensorSplit(test_x, test_y),
        int(y.max()) + 1,
        (x.shape[1], x.shape[2], x.shape[3]),
    )


def digits(config: DatasetConfig) -> Splits:
    """scikit-learn's 8x8 digits (1,797 images, in its wheel); a quarter is the test split."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    x = torch.from_numpy(bunch.images).float().div(16)[:, None]
    y = torch.from_numpy(bunch.target).long()
    order = torch.randperm(len(x), generator=torch_rng(0, "digits-test"))
    test, train = order[: len(x) // 4], order[len(x) // 4 :]
    return _resident(x[train], y[train], x[test], y[test], config.valid, pad=1, flip=False)


FASHION_PLACES = ("/usr/share/datasets/fashion-mnist", "~/.cache/juxtabit/data/FashionMNIST/raw")
_FASHION_FILES = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")


def _idx(path: Path, dims: int) -> Tensor:
    """Read one IDX file (gzipped or not), the format of MNIST."""
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        if raw[:3] != b"\x00\x00\x08" or raw[3] != dims:
            raise ValueError("not an IDX file of bytes with the expected dimensions")
        shape = np.frombuffer(raw, ">i4", dims, 4)
        return torch.from_numpy(
            np.frombuffer(raw, np.uint8, offset=4 + 4 * dims).reshape(shape.tolist()).copy()
        )
    except (OSError, EOFError, ValueError, IndexError, zlib.error) as error:
        raise CorruptData(f"{path} cannot be read: {error}; delete it and get it again") from error


def fashion_mnist(config: DatasetConfig) -> Splits:
    """Fashion-MNIST (60,000 and 10,000 images of 28x28) from IDX files."""
    places = [config.root] if config.root else list(FASHION_PLACES)
    for place in places:
        folder = Path(place).expanduser()
        found = [
            next((p for p in (folder / f"{n}-ubyte.gz", folder / f"{n}-ubyte") if p.exists()), None)
            for n in _FASHION_FILES
        ]
        if all(found):
            break
    else:
        if config.download:
            return _fashion_torchvision(config)
        raise MissingData(
            f"Fashion-MNIST was looked for in {', '.join(map(str, places))}. Get it with "
            "'apt-get install dataset-fashion-mnist' (Debian, Ubuntu), name its folder with "
            "dataset.root=PATH, or let torchvision fetch it with dataset.download=true."
        )
    train_x, train_y, test_x, test_y = (
        _idx(path, 3 if "images" in path.name else 1) for path in found if path
    )
    return _resident(
        train_x.float().div(255)[:, None], train_y.long(),
        test_x.float().div(255)[:, None], test_y.long(),
        config.valid, pad=2, flip=True,
    )  # fmt: skip


def _fashion_torchvision(config: DatasetConfig) -> Splits:
    root = Path(config.root or "~/.cache/juxtabit/data").expanduser()
    return _torchvision("FashionMNIST", root, config, pad=2)


def _torchvision(name: str, root: Path, config: DatasetConfig, pad: int) -> Splits:
    import torchvision.datasets

    kind = getattr(torchvision.datasets, name)
    try:
        parts = [kind(str(root), train=train, download=config.download) for train in (True, False)]
    except (RuntimeError, OSError) as error:
        raise MissingData(
            f"{name} was looked for in {root} ({error}). Put torchvision's files there, name "
            "another folder with dataset.root=PATH, or allow dataset.download=true."
        ) from error
    tensors: list[Tensor] = []
    for part in parts:
        x = torch.as_tensor(np.asarray(part.data)).float().div(255)
        tensors += [x[:, None] if x.dim() == 3 else x.permute(0, 3, 1, 2)]
        tensors += [torch.as_tensor(part.targets).long()]
    train_x, train_y, test_x, test_y = tensors
    return _resident(train_x, train_y, test_x, test_y, config.valid, pad=pad, flip=True)


def cifar10(config: DatasetConfig) -> Splits:
    """CIFAR-10 through torchvision."""
    return _torchvision(
        "CIFAR10", Path(config.root or "~/.cache/juxtabit/data").expanduser(), config, pad=4
    )


def cifar100(config: DatasetConfig) -> Splits:
    """CIFAR-100 through torchvision."""
    return _torchvision(
        "CIFAR100", Path(config.root or "~/.cache/juxtabit/data").expanduser(), config, pad=4
    )


def _on_disk(config: DatasetConfig, make: Callable[[bool, Any], Any], name: str) -> Splits:
    """Splits of a dataset that stays on disk, under timm's transforms.

    ``make(train, transform)`` opens the training or the test part.
    """
    from timm.data import create_transform

    size = (3, config.image_size, config.image_size)
    plain = create_transform(size, is_training=False)
    train, augmented = make(True, plain), make(True, create_transform(size, is_training=True))
    test = make(False, plain)
    rest, cut = _cut(len(train), config.valid)
    whole = DatasetSplit(train, augmented=augmented, name=name, workers=config.workers)
    labels = {int(label) for label in _labels(train)}
    return Splits(
        whole._take(rest.tolist()),
        DatasetSplit(train, name=name, workers=config.workers)._take(cut.tolist()),
        DatasetSplit(test, name=f"{name}/test", workers=config.workers),
        max(labels) + 1,
        size,
    )


def _labels(dataset: Any) -> list[int]:
    if hasattr(dataset, "targets"):
        return list(dataset.targets)
    if hasattr(dataset, "reader") and hasattr(dataset.reader, "samples"):
        return [label for _, label in dataset.reader.samples]
    return [int(dataset[i][1]) for i in range(len(dataset))]


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

    def make(train: bool, transform: Any) -> Any:
        folder = root / "train" if train else test
        try:
            return ImageFolder(str(folder), transform)
        except (FileNotFoundError, RuntimeError) as error:
            raise CorruptData(f"{folder} holds no readable class folders: {error}") from error

    return _on_disk(config, make, f"imagefolder:{root.name}")


def timm_dataset(config: DatasetConfig) -> Splits:
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


for _name, _loader in {
    "digits": digits,
    "fashion_mnist": fashion_mnist,
    "cifar10": cifar10,
    "cifar100": cifar100,
    "imagenet": imagefolder,
    "imagefolder": imagefolder,
    "timm": timm_dataset,
}.items():
    datasets.add(_name, _loader)
