"""A caller's dataset whose samples are looked at as they are read, every time and by whomever."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

FLOATS = "give torch.float32, normalised as the network expects"
PAIRS = "give pairs (images, labels)"


class Checked(Dataset[Any]):
    """The same samples, each refused where a score would be wrong or torch would fail on it.

    A whole dataset is not read for this: what is never read is never looked at.

    Attributes:
        dataset: gives (image, class number).
        name: the argument's name, for messages.
        shape: of every image; that of image 0.
        classes: how many outputs the network has; None until that is known.
    """

    def __init__(self, dataset: Dataset[Any], name: str) -> None:
        self.dataset, self.name = dataset, name
        self.classes: int | None = None
        self.shape: tuple[int, ...] | None = None
        self.shape = tuple(self[0][0].shape)

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self._sample(self.dataset[index], index)

    def __getitems__(self, index: Sequence[int]) -> list[tuple[Tensor, int]]:
        # Datasets that read a batch at once are asked for a batch, as torch would.
        several = getattr(self.dataset, "__getitems__", None)
        found = several(index) if callable(several) else [self.dataset[i] for i in index]
        found = list(found) if isinstance(found, Iterable) else []
        if len(found) != len(index):
            raise ValueError(
                f"{self.name}: __getitems__ gives {len(found)} samples for {len(index)} indices; "
                "give a list with one for each"
            )
        return [self._sample(sample, i) for sample, i in zip(found, index, strict=True)]

    def _sample(self, sample: Any, index: int) -> tuple[Tensor, int]:
        x, y = pair(sample, self.name)
        where = f"{self.name}, image {index}"
        return self._image(x, where), self._label(y, where)

    def _image(self, x: Any, where: str) -> Tensor:
        if not isinstance(x, Tensor | np.ndarray):
            raise ValueError(
                f"{where} is a {type(x).__name__}: give a tensor [C, H, W], as "
                "torchvision.transforms.ToTensor makes one of a picture"
            )
        try:
            image = tensor_of(x).detach()
        except ValueError as error:
            raise ValueError(f"{where}: torch makes no tensor of it ({error}); {FLOATS}") from error
        check_strided(image, where)
        if image.dtype != torch.float32:
            raise ValueError(f"{where} is {image.dtype}; {FLOATS}")
        if image.dim() < 1 or image.shape != (self.shape or image.shape):
            first = f", image 0 {list(self.shape)}" if self.shape else ""
            raise ValueError(
                f"{where} is {list(image.shape)}{first}; give all as [C, H, W] of one size"
            )
        if not image.isfinite().all():
            raise ValueError(f"{where} holds NaN or infinite values")
        return image

    def _label(self, y: Any, where: str) -> int:
        try:
            value = tensor_of(y)
        except ValueError:
            value = None
        if value is None or value.dim() or value.is_floating_point() or value.is_complex():
            raise ValueError(f"{where}: its label is {y!r:.60}; give a class number")
        label = int(value)
        if self.classes is not None and not 0 <= label < self.classes:
            raise ValueError(
                f"{where}: its label is {label}, those of a model of {self.classes} outputs run "
                f"from 0 to {self.classes - 1}; number the classes from 0"
            )
        return label


def tensor_of(value: Any) -> Tensor:
    """A tensor of what is one, of an array, or of numbers.

    Raises:
        ValueError: torch makes none of it.
    """
    if isinstance(value, np.ndarray) and any(step < 0 for step in value.strides):
        value = np.ascontiguousarray(value)  # flipped: torch takes no axis that runs backwards
    try:
        return torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(str(error)) from error


def check_strided(x: Tensor, where: str) -> None:
    """Refuse a sparse tensor, for which torch lacks most of what is done with images.

    Raises:
        ValueError: it is one.
    """
    if x.layout != torch.strided:
        layout = str(x.layout).removeprefix("torch.")
        raise ValueError(f"{where}: a tensor of the layout {layout}; give x.to_dense()")


def pair(batch: Any, name: str) -> tuple[Any, Any]:
    """Images and labels of a sample or a batch.

    Raises:
        ValueError: it has another form.
    """
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        count = f" of {len(batch)}" if isinstance(batch, tuple | list) else ""
        kind = type(batch).__name__
        raise ValueError(f"{name} gives a {kind}{count}: {PAIRS}")
    return batch[0], batch[1]
