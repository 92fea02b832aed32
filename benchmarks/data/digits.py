"""scikit-learn's handwritten digits, embedded in its wheel."""

from __future__ import annotations

import torch

from benchmarks.data.load import DatasetConfig, Splits, register_dataset, resident
from frameworks import torch_rng


@register_dataset
def digits(config: DatasetConfig) -> Splits:
    """scikit-learn's 8x8 digits (1,797 images, in its wheel); a quarter is the test split."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    x = torch.from_numpy(bunch.images).float().div(16)[:, None]
    y = torch.from_numpy(bunch.target).long()
    order = torch.randperm(len(x), generator=torch_rng(0, "digits-test"))
    test, train = order[: len(x) // 4], order[len(x) // 4 :]
    return resident(x[train], y[train], x[test], y[test], config.valid, pad=1, flip=False)
