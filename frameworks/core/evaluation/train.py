"""The one training loop: pretraining, searching and fine-tuning all go through it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from frameworks.core.evaluation.divergence import Steps
from frameworks.core.split import Batch, Split

Loss = Callable[[nn.Module, Tensor, Tensor], Tensor]
_precision: ContextVar[torch.dtype | None] = ContextVar("precision of training", default=None)


def train_in(dtype: torch.dtype | None) -> None:
    """Let training steps of this thread run under torch's autocast to a type; None: in float32.

    Losses, gradients and weights stay in float32, and so do evaluations and estimators.
    """
    _precision.set(dtype)


def _autocast(x: Tensor) -> AbstractContextManager[object]:
    dtype = _precision.get()
    return nullcontext() if dtype is None else torch.autocast(x.device.type, dtype)


@dataclass(frozen=True)
class Recipe:
    """How weights are trained.

    Attributes:
        epochs: passes over the images.
        images: how many training images an epoch uses; None for all.
        batch: batch size.
        optimizer: ``sgd`` (with momentum, Nesterov off) or ``adam``.
        lr: peak learning rate of the weights.
        range_lr: learning rate of quantization ranges, relative to ``lr``.
        schedule: ``cosine`` to zero, ``constant``, or ``step`` (times 0.1 at 1/2 and 3/4).
        weight_decay: on weights of more than one dimension; ranges, biases and norms have none.
        augment: whether images are augmented as the dataset says.
    """

    epochs: float = 1
    images: int | None = None
    batch: int = 128
    optimizer: Literal["sgd", "adam"] = "sgd"
    lr: float = 0.01
    range_lr: float = 0.1
    schedule: Literal["cosine", "constant", "step"] = "cosine"
    momentum: float = 0.9
    weight_decay: float = 1e-4
    augment: bool = False

    def __post_init__(self) -> None:
        # NaN fails every comparison, so that these refuse it, too.
        least = {"epochs": 0, "batch": 1, "lr": 0, "range_lr": 0, "momentum": 0, "weight_decay": 0}
        for name, bound in least.items():
            value = getattr(self, name)
            if not bound <= value < math.inf:
                raise ValueError(
                    f"recipe.{name} = {value}: epochs, batch and lr must be positive; "
                    f"give a finite number of at least {bound}"
                )
        if self.images is not None and not self.images >= 1:
            raise ValueError(f"recipe.images = {self.images}: give at least 1, or null for all")
        if self.optimizer not in ("sgd", "adam"):
            raise ValueError(f"recipe.optimizer: {self.optimizer!r}; choose sgd or adam")
        if self.schedule not in ("cosine", "constant", "step"):
            raise ValueError(f"recipe.schedule: {self.schedule!r}; choose cosine, constant, step")

    def rate(self, progress: float) -> float:
        """Learning rate relative to the peak after this share of the training."""
        if self.schedule == "cosine":
            return 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
        if self.schedule == "step":
            return 0.01 if progress >= 0.75 else 0.1 if progress >= 0.5 else 1.0
        return 1.0


def cross_entropy(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Mean cross-entropy of a batch."""
    return functional.cross_entropy(model(x), y)


def make_optimizer(
    recipe: Recipe,
    weights: Iterable[nn.Parameter],
    ranges: Iterable[nn.Parameter] = (),
) -> torch.optim.Optimizer:
    """The recipe's optimizer, with weight decay on weight tensors only."""
    every = [p for p in weights if p.requires_grad]
    groups = [
        {"params": [p for p in every if p.dim() > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in every if p.dim() <= 1], "weight_decay": 0.0},
        {"params": list(ranges), "weight_decay": 0.0, "lr": recipe.lr * recipe.range_lr},
    ]
    groups = [group for group in groups if group["params"]]
    if recipe.optimizer == "adam":
        return torch.optim.Adam(groups, lr=recipe.lr)
    return torch.optim.SGD(groups, lr=recipe.lr, momentum=recipe.momentum)


def train_epoch(
    model: nn.Module,
    batches: Iterable[Batch],
    optimizers: Sequence[torch.optim.Optimizer],
    loss: Loss = cross_entropy,
    before_step: Callable[[], None] | None = None,
    after_step: Callable[[], None] | None = None,
) -> float:
    """One pass; the mean loss over images. ``loss(model, x, y)`` gives a batch's mean loss."""
    total, count = 0.0, 0
    for x, y in batches:
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        with _autocast(x):
            value = loss(model, x, y)
        value.backward()  # type: ignore[no-untyped-call]
        if before_step is not None:
            before_step()
        for optimizer in optimizers:
            optimizer.step()
        if after_step is not None:
            after_step()
        total += float(value.detach()) * len(x)
        count += len(x)
    return total / max(count, 1)


def fit(
    model: nn.Module,
    split: Split,
    recipe: Recipe,
    generator: torch.Generator,
    *,
    weights: Iterable[nn.Parameter] | None = None,
    ranges: Iterable[nn.Parameter] = (),
    loss: Loss = cross_entropy,
    on_epoch: Callable[[int, int, float], None] | None = None,
) -> nn.Module:
    """Train a model in place by a recipe; it is left in eval mode.

    Args:
        generator: draws the images (if the recipe uses a part), the order and the augmentation.
        weights: what to train; all parameters by default.
        ranges: quantization ranges, with their own learning rate.
        on_epoch: called with (epoch from 1, epochs, mean loss).

    Raises:
        FloatingPointError: a loss, or a weight or buffer after an epoch, is not finite; the message
            names epoch and step.
    """
    if recipe.epochs == 0:
        return model.eval()
    part = split if recipe.images is None else split.subset(recipe.images, generator)
    optimizer = make_optimizer(recipe, model.parameters() if weights is None else weights, ranges)
    steps_per_epoch = math.ceil(len(part) / recipe.batch)
    steps = max(1, math.ceil(recipe.epochs * steps_per_epoch))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda i: recipe.rate(i / steps))
    epochs = math.ceil(steps / steps_per_epoch)
    watched = Steps(loss, epochs, steps_per_epoch, recipe.lr)

    def after_step() -> None:
        watched.check()
        schedule.step()

    model.train()
    for epoch in range(epochs):
        left = steps - epoch * steps_per_epoch
        batches = part.batches(recipe.batch, generator, augment=recipe.augment)
        mean = train_epoch(
            model,
            (batch for _, batch in zip(range(left), batches, strict=False)),
            [optimizer],
            watched,
            after_step=after_step,
        )
        watched.check_weights(model)
        if on_epoch is not None:
            on_epoch(epoch + 1, epochs, mean)
    return model.eval()
