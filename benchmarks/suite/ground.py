"""What a cell is computed on: images, and the float network that is to be quantized."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from benchmarks.data.load import Splits
from benchmarks.suite.assets import (
    Progress,
    Reporter,
    checkpoint_of,
    entry_text,
    fingerprint_of,
    splits_here,
)
from benchmarks.suite.config import Cell
from benchmarks.suite.setting import accounted
from frameworks import Accounting


@dataclass(frozen=True)
class Ground:
    """What a cell is computed on.

    Attributes:
        splits: the images, where this process computes.
        network: the pretrained float network; never changed.
        float_accuracy: its top-1 on the test split in percent.
        accounting: which of its weights have bits.
        facts: what the record's ``data`` say of images and network.
    """

    splits: Splits
    network: nn.Module
    float_accuracy: float
    accounting: Accounting
    facts: dict[str, str]


def ground_of(cell: Cell, progress: Progress) -> Ground:
    """The data set and the float network that a cell's configuration names."""
    model, dataset = entry_text(cell["model"]), entry_text(cell["dataset"])
    progress(0, 1, "loading the data")
    splits = splits_here(dataset)
    progress(0, 1, "loading the float network")
    checkpoint, float_accuracy = checkpoint_of(model, dataset, Reporter(progress))
    facts = {
        "dataset": fingerprint_of(dataset),
        "checkpoint": checkpoint.fingerprint,
        "origin": str(checkpoint.origin),
    }
    return Ground(splits, checkpoint.model, float_accuracy, accounted(cell), facts)
