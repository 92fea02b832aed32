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

from frameworks.core.evaluation.batches import Loader, Transform, source_of, transformer
from frameworks.core.evaluation.distillation import Distillation, Teacher, distillation
from frameworks.core.evaluation.divergence import Steps
from frameworks.core.split import CPU, Batch, Split

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
        momentum: of ``sgd``.
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


def smoothed_cross_entropy(share: float) -> Loss:
    """Mean cross-entropy with so much of each label spread evenly over all classes."""

    def loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return functional.cross_entropy(model(x), y, label_smoothing=share)

    return loss


def loss_of(loss: Loss | None, teacher: Teacher | None) -> Loss:
    """The loss of a training: a method's own, that of a teacher, or the cross-entropy.

    Raises:
        ValueError: there are both, or the teacher is none.
        TypeError: the loss cannot be called.
    """
    if teacher is not None and loss is not None:
        raise ValueError(
            "loss and teacher: give one; temperature and weight of a teacher are set with "
            "loss=distillation(teacher, temperature, weight), and a loss of your own may ask one "
            "itself (problem.float_model())"
        )
    if loss is not None and not callable(loss):
        raise TypeError(f"loss: a {type(loss).__name__}: give a function of (model, x, y)")
    return distillation(teacher) if teacher is not None else loss or cross_entropy


def _checked(loss: Loss) -> Loss:
    def checked(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        value = loss(model, x, y)
        if not isinstance(value, Tensor) or value.dim():
            found = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"loss: it gives {found}: give a scalar tensor, the batch's mean")
        if not value.requires_grad:
            raise ValueError(
                "loss: no gradient leads from it to the weights: compute it from model(x) by torch "
                "alone, without no_grad, detach or float()"
            )
        return value

    return checked


def make_optimizer(
    recipe: Recipe,
    weights: Iterable[nn.Parameter],
    ranges: Iterable[nn.Parameter] = (),
) -> torch.optim.Optimizer:
    """The recipe's optimizer, with weight decay on weight tensors only.

    Raises:
        ValueError: there is nothing to train.
    """
    every = [p for p in weights if p.requires_grad]
    groups = [
        {"params": [p for p in every if p.dim() > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in every if p.dim() <= 1], "weight_decay": 0.0},
        {"params": list(ranges), "weight_decay": 0.0, "lr": recipe.lr * recipe.range_lr},
    ]
    groups = [group for group in groups if group["params"]]
    if not groups:
        raise ValueError(
            "there is nothing to train: all parameters are frozen; let some have "
            "requires_grad=True, or train for 0 epochs"
        )
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
        try:
            with _autocast(x):
                value = loss(model, x, y)
        except ValueError as error:
            if len(x) == 1 and "more than 1 value per channel" in str(error):
                raise _single(error) from error
            raise
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


def _single(error: ValueError) -> ValueError:
    return ValueError(
        f"a batch has one image alone, and BatchNorm has no variance of it ({error}); choose "
        "another batch size, or another number of images, so that more are left for the last batch"
    )


def fit(
    model: nn.Module,
    split: Split | None,
    recipe: Recipe,
    generator: torch.Generator,
    *,
    weights: Iterable[nn.Parameter] | None = None,
    ranges: Iterable[nn.Parameter] = (),
    loss: Loss | None = None,
    teacher: Teacher | None = None,
    transform: Transform | None = None,
    loader: Loader | None = None,
    on_epoch: Callable[[int, int, float], None] | None = None,
) -> nn.Module:
    """Train a model in place by a recipe; it is left in eval mode.

    Args:
        split: the labelled images; None where a loader says its length.
        generator: draws the images (if the recipe uses a part), the order and the augmentation;
            passed to ``transform``, and to a loader that is a function.
        weights: what to train; all parameters by default.
        ranges: quantization ranges, with their own learning rate.
        loss: ``loss(model, x, y)``, a scalar; the mean cross-entropy by default.
        teacher: a module to learn from, by `distillation` at its defaults.
        transform: ``transform(x, y, generator)`` gives the batch to train on, after augmentation.
            Labels may become shares ``[B, classes]``.
        loader: batches ``(x, y)`` in the place of the split's: anything that can be gone through
            again and again, a function of the generator that begins a pass, or another `Split`.
            They are moved to where the model is. An epoch has the loader's ``len`` of batches, or
            where it has none as many as of the split; never more than of ``recipe.images``. One
            pass follows the other until the recipe's steps are done.
        on_epoch: called with (epoch from 1, epochs, mean loss).

    Global generators are seeded while a loader or transform draws, and are put back.

    Raises:
        FloatingPointError: a loss, or a weight or buffer after an epoch, is not finite; the message
            names epoch and step.
        ValueError: a loss is no scalar or has no gradient; a loader is empty, used up, or has no
            length; loss and teacher are both given.
        TypeError: a loss, loader or transform, or what it gives, is none.
    """
    loss = loss_of(loss, teacher)
    if recipe.epochs == 0:
        return model.eval()
    device = next((p.device for p in model.parameters()), CPU)
    loss = loss.on(device) if isinstance(loss, Distillation) else loss
    source = source_of(
        split,
        loader,
        images=recipe.images,
        size=recipe.batch,
        augment=recipe.augment,
        generator=generator,
        device=device,
    )
    optimizer = make_optimizer(recipe, model.parameters() if weights is None else weights, ranges)
    steps = max(1, math.ceil(recipe.epochs * source.steps))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda i: recipe.rate(i / steps))
    epochs = math.ceil(steps / source.steps)
    change = transformer(transform, generator)
    watched = Steps(_checked(loss), epochs, source.steps, recipe.lr)

    def after_step() -> None:
        watched.check()
        schedule.step()

    model.train()
    for epoch in range(epochs):
        batches = source.batches(min(source.steps, steps - epoch * source.steps))
        mean = train_epoch(model, change(batches), [optimizer], watched, after_step=after_step)
        watched.check_weights(model)
        if on_epoch is not None:
            on_epoch(epoch + 1, epochs, mean)
    return model.eval()
