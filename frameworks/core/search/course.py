"""The course of a search by gradients: its passes over the images, its objective and its loss."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from frameworks.core.evaluation.train import Loss, train_epoch
from frameworks.core.search.learning import Learning
from frameworks.core.split import Split


@dataclass
class Course:
    """What a search minimises, step by step, and its task loss without the penalty.

    Attributes:
        objective: what is minimised, for `Learning`.
        generator: draws the images of a pass, their order and their augmentation.
        batch: batch size.
        augment: whether images are augmented as the dataset says.
        values: the objective of each step.
        losses: the task loss of each step.
        passes: how many passes over the images there were.
    """

    objective: str
    generator: torch.Generator
    batch: int
    augment: bool
    values: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    passes: int = 0

    def step(self, task: Tensor, objective: Tensor) -> Tensor:
        """Note a batch's task loss and objective (scalars); the objective."""
        self.losses.append(float(task.detach()))
        self.values.append(float(objective.detach()))
        return objective

    def run(
        self,
        model: nn.Module,
        split: Split,
        images: int | None,
        optimizers: Sequence[torch.optim.Optimizer],
        loss: Loss,
        after_step: Callable[[], None] | None = None,
        before_step: Callable[[], None] | None = None,
    ) -> None:
        """One pass in training mode over ``images`` random ones of a split; None for all.

        ``before_step`` is called with the gradients there, ``after_step`` after each step.

        Raises:
            FloatingPointError: the mean loss is not finite.
        """
        self.passes += 1
        part = split if images is None else split.subset(images, self.generator)
        batches = part.batches(self.batch, self.generator, augment=self.augment)
        mean = train_epoch(model.train(), batches, optimizers, loss, before_step, after_step)
        if not math.isfinite(mean):
            raise FloatingPointError(f"the search diverged in pass {self.passes}: loss {mean}")

    @property
    def last(self) -> float | None:
        """Mean task loss of the last tenth of the steps; None before the first."""
        tail = self.losses[-max(1, len(self.losses) // 10) :]
        return math.fsum(tail) / len(tail) if tail else None

    def to_json(self) -> dict[str, Any]:
        """For ``Solution.notes["learning"]``: whether the objective fell."""
        return Learning(self.objective, self.values, higher=False).to_json()
