"""What a search maximises: accuracy, or where there are no labels likeness to the float network.

With ``agreement`` and ``kl`` no label of any split is looked at. The float network's answers take
their place (`frameworks.AnsweredSplit`): its top-1 under ``agreement``, its shares under ``kl``. So
the one way in which searches score and train serves every framework, and every protocol. Of a final
network the table says the agreement on the test images under both, and records the divergence, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import torch
from torch import nn

from benchmarks.data.load import Splits
from frameworks import AnsweredSplit, Score, Split, measure

OBJECTIVES = ("accuracy", "agreement", "kl")
DEFAULT = "accuracy"
"""Left out of a cell's identity, as it is what cells without this key have."""


def objective_of(protocol: Mapping[str, Any]) -> str:
    """What a protocol's searches maximise."""
    return str(protocol.get("objective", DEFAULT))


class Objective:
    """The labels of a cell's splits, and the score of its final networks.

    Args:
        name: one of `OBJECTIVES`.
        network: the float network, where the images are; nothing else may change it.
        splits: the data.
    """

    def __init__(self, name: str, network: nn.Module, splits: Splits) -> None:
        self.name, self.splits = name, splits
        self.free = name != DEFAULT
        """Whether it does without labels."""
        self._network = network
        self._valid: Split | None = None

    def _labelled(self, split: Split, soft: bool, keep: bool = False) -> Split:
        return AnsweredSplit(split, self._network, soft=soft, keep=keep) if self.free else split

    @property
    def train(self) -> Split:
        """The training images."""
        return self._labelled(self.splits.train, self.name == "kl")

    def valid(self, count: int, draw: torch.Generator) -> Split:
        """So many search-validation images; one draw a cell, whose answers are kept."""
        drawn = self.splits.valid.subset(count, draw)
        if self._valid is None:
            self._valid = self._labelled(drawn, self.name == "kl", keep=True)
        return self._valid

    @cached_property
    def test(self) -> Split:
        """The test images with classes."""
        return self._labelled(self.splits.test, False, keep=True)

    @cached_property
    def scored(self) -> Split:
        """The test images with the labels that final networks are scored by."""
        return self._labelled(self.splits.test, True, keep=True)

    def score(self, model: nn.Module) -> Score:
        """A final network's score on the test images."""
        return measure(model, self.scored)


def shown(score: Score) -> float:
    """The percentage that tables show."""
    return score.accuracy if score.agreement is None else score.agreement
