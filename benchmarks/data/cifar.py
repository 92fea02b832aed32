"""CIFAR-10 and CIFAR-100 (Krizhevsky, 2009), and how torchvision's small datasets are read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.data.load import DatasetConfig, MissingData, Splits, register_dataset, resident

DEFAULT_ROOT = "~/.cache/juxtabit/data"


def from_torchvision(name: str, config: DatasetConfig, pad: int) -> Splits:
    """Splits of one of torchvision's datasets of small images.

    Raises:
        MissingData: its files are not there, and may not be fetched or cannot be.
    """
    import torchvision.datasets

    root = Path(config.root or DEFAULT_ROOT).expanduser()
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
    return resident(train_x, train_y, test_x, test_y, config.valid, pad=pad, flip=True)


@register_dataset
def cifar10(config: DatasetConfig) -> Splits:
    """CIFAR-10 through torchvision."""
    return from_torchvision("CIFAR10", config, pad=4)


@register_dataset
def cifar100(config: DatasetConfig) -> Splits:
    """CIFAR-100 through torchvision."""
    return from_torchvision("CIFAR100", config, pad=4)
