"""Evaluation of policies: metered and cached, the hot path of every search."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from frameworks.core.calibrate import reestimate_batchnorm
from frameworks.core.meter import Meter
from frameworks.core.policy import Policy
from frameworks.core.qmodel import QModel
from frameworks.core.split import Split

EVALUATION_BATCH = 125
"""Small enough that the activations of a small network stay in the cache."""


@dataclass(frozen=True)
class Score:
    """How well a network does on a split."""

    accuracy: float
    """Top-1, in percent."""
    loss: float
    """Mean cross-entropy."""


@torch.no_grad()
def measure(model: nn.Module, split: Split, batch: int = EVALUATION_BATCH) -> Score:
    """Top-1 accuracy and mean loss of a model over a whole split, in eval mode."""
    model.eval()
    right, total, loss = 0, 0, 0.0
    for x, y in split.batches(batch):
        logits = model(x)
        right += int((logits.argmax(1) == y).sum())
        loss += float(functional.cross_entropy(logits, y, reduction="sum"))
        total += len(y)
    return Score(100.0 * right / total, loss / total)


class Evaluator:
    """Scores policies on one split without training: quantize, re-estimate BatchNorm, measure.

    Scores are cached by policy; a cached policy costs nothing and is not counted again.
    """

    def __init__(self, qmodel: QModel, split: Split, images: Tensor, meter: Meter) -> None:
        self.qmodel, self.split, self.images, self.meter = qmodel, split, images, meter
        self._scores: dict[Policy, Score] = {}

    def __call__(self, policy: Policy) -> Score:
        if policy not in self._scores:
            self._scores[policy] = measure(self.apply(policy), self.split)
        return self._scores[policy]

    def apply(self, policy: Policy) -> QModel:
        """The network at a policy, ready to be measured in another way; counted every time."""
        self.meter.policies += 1
        self.qmodel.fix(policy)
        reestimate_batchnorm(self.qmodel, self.images)
        return self.qmodel
