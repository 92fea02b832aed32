"""Where the batches of a training come from: a split, or a loader of a method's own."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from itertools import count, islice
from typing import Any, Protocol

import torch
from torch import Tensor

from frameworks.core.networks.correction import COPIES, LIMIT
from frameworks.core.randomness import seeded
from frameworks.core.split import Batch, Split

Loader = Split | Iterable[Batch] | Callable[[torch.Generator], Iterable[Batch]]
"""A split, anything that can be gone through, or what begins a pass by a generator."""
Transform = Callable[[Tensor, Tensor, torch.Generator], Batch]
KEPT_BYTES = LIMIT // COPIES
"""What images for BatchNorm may take beside the training: about what one pass holds."""
_END = object()


class Source(Protocol):
    """Batches of a training."""

    steps: int
    """Batches of an epoch."""

    def batches(self, limit: int) -> Iterator[Batch]:
        """The next epoch, or its first ``limit`` batches."""
        ...


class _OfSplit:
    def __init__(
        self,
        split: Split,
        images: int | None,
        size: int,
        generator: torch.Generator,
        augment: bool,
    ) -> None:
        self.part = split if images is None else split.subset(images, generator)
        self.size, self.generator, self.augment = size, generator, augment
        self.steps = math.ceil(len(self.part) / size)

    def batches(self, limit: int) -> Iterator[Batch]:
        return islice(self.part.batches(self.size, self.generator, augment=self.augment), limit)


class _OfLoader:
    """The passes of a loader, one after the other, in as many steps as a training takes.

    Its code runs by seeded global generators, which are put back: a shuffled
    `torch.utils.data.DataLoader` or a transform of torchvision draws from these.
    """

    def __init__(self, loader: Any, generator: torch.Generator, device: torch.device) -> None:
        if not hasattr(loader, "__iter__") and not callable(loader):
            raise TypeError(
                f"loader: {_a(loader)}: give batches (x, y) to go through (a list, a DataLoader), "
                "a function of a torch generator that gives them, or a Split"
            )
        self.loader, self.generator, self.device = loader, generator, device
        self.seed = _peeked(generator)
        self.passes = self.taken = self.of_pass = self.steps = 0
        self.length = self._begin()

    def bounded(self, images: int | None, size: int, split: Split | None) -> _OfLoader:
        """With epochs of the loader's length, of at most so many images, or of the split's."""
        if self.length == 0:
            raise ValueError(self._nothing())
        if self.length is None and images is None and split is not None:
            images = len(split)
        asked = None if images is None else math.ceil(images / size)
        known = [steps for steps in (self.length, asked) if steps is not None]
        if not known:
            raise ValueError(
                "loader: how many batches a pass has is not known (it has no len): give it one, "
                "or say with recipe.images how many images are an epoch"
            )
        self.steps = min(known)
        return self

    def batches(self, limit: int) -> Iterator[Batch]:
        for _ in range(limit):
            yield self._next()

    def _begin(self) -> int | None:
        """Begin a pass; how many batches it has, if that is known."""
        with seeded(self.seed, "pass", str(self.passes)):
            iterable = hasattr(self.loader, "__iter__")
            found = self.loader if iterable else self.loader(self.generator)
            if not hasattr(found, "__iter__"):
                raise TypeError(f"loader: the function gave {_a(found)}: give batches (x, y)")
            length = _length(found)
            self.iterator = iter(found)
        self.passes, self.of_pass, self.grad = self.passes + 1, 0, torch.is_grad_enabled()
        return length

    def _next(self) -> Batch:
        # A generator that stops within `no_grad` would leave the training without gradients.
        with seeded(self.seed, "batch", str(self.taken)), torch.set_grad_enabled(self.grad):
            batch: Any = next(self.iterator, _END)
            self.grad = torch.is_grad_enabled()
        if batch is not _END:
            self.taken, self.of_pass = self.taken + 1, self.of_pass + 1
            return self._checked(batch)
        if not self.of_pass:
            raise ValueError(self._nothing())
        self._begin()
        return self._next()

    def _nothing(self) -> str:
        if not self.taken:
            return "loader: it gives no batch"
        return (
            f"loader: it is used up after {self.taken} batches, and the training goes on: what can "
            "be gone through once has no second epoch; give a list, a DataLoader, or a function of "
            "a torch generator that begins anew"
        )

    def _checked(self, batch: Any) -> Batch:
        x, y = pair(f"loader: batch {self.taken}", batch)
        if x.dim() == 4:
            x = x.contiguous(memory_format=torch.channels_last)  # as splits hand them out
        return x.to(self.device, non_blocking=True), y.to(self.device, non_blocking=True)


def source_of(
    split: Split | None,
    loader: Loader | None,
    *,
    images: int | None,
    size: int,
    augment: bool,
    generator: torch.Generator,
    device: torch.device,
) -> Source:
    """The batches that a training goes through.

    Args:
        split: where no loader takes its place; with a loader that does not know its length, its
            size is that of an epoch.
        loader: see `Loader`; its batches are moved to the device.
        images: of an epoch; None for all.
        size: of a batch; a loader that is no split has its own, and of this one takes steps.
        augment: for splits.
        generator: draws images, order and augmentation, and is passed to a loader that is called.

    Raises:
        ValueError: there is nothing to train on, or no length of an epoch.
        TypeError: the loader is none.
    """
    if isinstance(loader, Split):
        split, loader = loader.to(device), None
    if loader is not None:
        return _OfLoader(loader, generator, device).bounded(images, size, split)
    if split is None:
        raise ValueError("there is nothing to train on: give a split or a loader")
    return _OfSplit(split, images, size, generator, augment)


class Kept:
    """A transform that keeps the first images of a training as they came, for BatchNorm's sake.

    Args:
        transform: what comes after it; None for nothing.
        fewest: images that are kept however large they are.
        most: images that are kept where they take no more than `KEPT_BYTES`.
    """

    def __init__(self, transform: Transform | None, fewest: int, most: int) -> None:
        self.transform, self.fewest, self.most = transform, fewest, most
        self._parts: list[Tensor] = []

    def __call__(self, x: Tensor, y: Tensor, generator: torch.Generator) -> Batch:
        had = sum(map(len, self._parts))
        room = max(self.fewest, min(self.most, KEPT_BYTES // (x[0].numel() * x.element_size())))
        # Of a loader whose images change their size, those of the first.
        if had < room and (not had or x.shape[1:] == self._parts[0].shape[1:]):
            self._parts.append(x[: room - had].clone())  # as a transform may write into it
        return (x, y) if self.transform is None else self.transform(x, y, generator)

    @property
    def images(self) -> Tensor:
        """``[N, ...]``, where the model is."""
        return torch.cat(self._parts)


def transformer(
    transform: Transform | None, generator: torch.Generator
) -> Callable[[Iterable[Batch]], Iterable[Batch]]:
    """What puts batches through a method's own ``transform(x, y, generator)``; None leaves them.

    It raises a TypeError where that gives no pair of tensors, and a ValueError where images and
    labels are not equally many.
    """
    if transform is None:
        return lambda batches: batches
    seed, numbers = _peeked(generator), count()

    def transformed(batches: Iterable[Batch]) -> Iterator[Batch]:
        for x, y in batches:
            with seeded(seed, "transform", str(next(numbers))):
                changed = transform(x, y, generator)
            yield pair("transform", changed)

    return transformed


def pair(what: str, batch: Any) -> Batch:
    """A batch as images ``[B, ...]`` and labels ``[B, ...]``.

    Raises:
        TypeError: it is no pair of these.
        ValueError: they are not equally many, or none.
    """
    if not isinstance(batch, tuple | list) or len(batch) != 2 or not isinstance(batch[0], Tensor):
        raise TypeError(f"{what} is {_a(batch)}: give (x, y), images [B, ...] and labels [B]")
    x, y = batch[0], torch.as_tensor(batch[1])
    if not y.dim():
        raise ValueError(
            f"{what} is a single image and its label: give batches, such as by a torch DataLoader"
        )
    if len(x) != len(y) or not len(x):
        raise ValueError(f"{what} has {len(x)} images and {len(y)} labels")
    return x, y


def _length(batches: object) -> int | None:
    try:
        return len(batches)  # type: ignore[arg-type]
    except TypeError:  # a DataLoader over a stream has a `__len__` that raises
        return None


def _peeked(generator: torch.Generator) -> int:
    """What a generator would draw next, undrawn: images come in the order they would without."""
    ahead = torch.Generator()
    ahead.set_state(generator.get_state())
    return int(torch.randint(2**62, (), generator=ahead))


def _a(value: object) -> str:
    return f"a {type(value).__name__}"
