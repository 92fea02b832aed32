"""scikit-learn's handwritten digits, embedded in its wheel."""

from __future__ import annotations

from importlib.metadata import files
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.data.load import DatasetConfig, Splits, register_dataset, resident
from frameworks import torch_rng

FILE = "sklearn/datasets/data/digits.csv.gz"


@register_dataset
def digits(config: DatasetConfig) -> Splits:
    """scikit-learn's 8x8 digits (1,797 images, in its wheel); a quarter is the test split."""
    images, labels = pictures()
    x = torch.from_numpy(images).float().div(16)[:, None]
    y = torch.from_numpy(labels).long()
    order = torch.randperm(len(x), generator=torch_rng(0, "digits-test"))
    test, train = order[: len(x) // 4], order[len(x) // 4 :]
    return resident(x[train], y[train], x[test], y[test], config.valid, pad=1, flip=False)


def pictures() -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Images of 8 x 8 values from 0 to 16, and their labels.

    The file alone is read: loading scikit-learn takes longer than a search on its digits. A
    release that keeps them elsewhere is asked itself.
    """
    found = [Path(path.locate()) for path in files("scikit-learn") or [] if str(path) == FILE]
    if not any(path.is_file() for path in found):
        from sklearn.datasets import load_digits

        bunch = load_digits()
        return bunch.images, bunch.target
    rows = np.loadtxt(found[0], delimiter=",")
    return rows[:, :-1].reshape(-1, 8, 8), rows[:, -1].astype(np.int64)
