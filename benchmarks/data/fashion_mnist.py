"""Fashion-MNIST (Xiao et al., arXiv 1708.07747), from IDX files or through torchvision."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.data.cifar import from_torchvision
from benchmarks.data.load import (
    CorruptData,
    DatasetConfig,
    MissingData,
    Splits,
    register_dataset,
    resident,
)

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


@register_dataset
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
            return from_torchvision("FashionMNIST", config, pad=2)
        raise MissingData(
            f"Fashion-MNIST was looked for in {', '.join(map(str, places))}. Get it with "
            "'apt-get install dataset-fashion-mnist' (Debian, Ubuntu), name its folder with "
            "dataset.root=PATH, or let torchvision fetch it with dataset.download=true."
        )
    train_x, train_y, test_x, test_y = (
        _idx(path, 3 if "images" in path.name else 1) for path in found if path
    )
    if len(train_x) != len(train_y) or len(test_x) != len(test_y):
        raise CorruptData(
            f"{folder}: {len(train_x)} and {len(test_x)} images, but {len(train_y)} and "
            f"{len(test_y)} labels; delete the files and get them again"
        )
    return resident(
        train_x.float().div(255)[:, None], train_y.long(),
        test_x.float().div(255)[:, None], test_y.long(),
        config.valid, pad=2, flip=True,
    )  # fmt: skip
