"""A caller's data as splits: tensors, datasets, loaders, or any batches that can be iterated."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    default_collate,
)

from benchmarks.calls.checked import FLOATS, Checked, check_strided, pair, tensor_of
from frameworks import DatasetSplit, Room, Split, TensorSplit, seeded

Images = Split | Dataset[Any] | Iterable[Any]
"""What `as_split` takes."""
FORMS = (
    "a DataLoader, a Dataset, a pair of tensors (images, labels), an iterable of such batches, or "
    "a frameworks.Split"
)


def as_split(data: Images, name: str, room: Room | None = None) -> Split:
    """Data as searches see them.

    A ``DataLoader`` stands for its dataset, read by as many processes; where it draws batches in a
    way of its own (a collate function, a sampler) they are gathered once and kept, as are those of
    any other iterable. Pairs of tensors, and datasets that are made of such, are kept as they are.

    Args:
        data: labelled images; see `FORMS`. Images are float32 ``[N, C, H, W]``, prepared as the
            network expects them; labels are class numbers ``[N]``.
        name: the argument's name, for messages.
        room: where the decoded images of a dataset are kept, whose transforms are then not random.

    Raises:
        TypeError: it is none of these.
        ValueError: images or labels cannot be used; the message says what to do.
    """
    if isinstance(data, Split):
        return _checked(data, name)
    if isinstance(data, DataLoader):
        return _of_loader(data, name, room)
    if isinstance(data, Dataset) and not isinstance(data, IterableDataset):
        return _of_dataset(data, name, 0, room)
    if isinstance(data, tuple | list) and len(data) == 2 and _is_array(data[0]):
        return _resident(data[0], data[1], name)
    if isinstance(data, Iterable) and not isinstance(data, str | bytes | dict | Tensor):
        return _gathered(data, name)
    raise TypeError(f"{name} is a {type(data).__name__}: give {FORMS}")


def _checked(split: Split, name: str) -> Split:
    """A caller's split, whose content is looked at as that of any other form.

    What one of a class of a plugin's own gives is its own affair.
    """
    if isinstance(split, TensorSplit):
        _check_tensors(split.x, split.y, name)
        if type(split) is TensorSplit and split.y.dtype != torch.int64:
            return TensorSplit(split.x, split.y.long(), pad=split.pad, flip=split.flip)
    elif type(split) is DatasetSplit and not isinstance(split.dataset, Checked):
        augmented = split.augmented
        return DatasetSplit(
            Checked(split.dataset, name),
            augmented=None if augmented is None else Checked(augmented, f"{name}, augmented"),
            name=split.name,
            workers=split.workers,
            device=split.device,
            room=split.room,
        )
    return split


def _is_array(value: object) -> bool:
    return isinstance(value, Tensor | np.ndarray)


def _of_loader(loader: DataLoader[Any], name: str, room: Room | None) -> Split:
    dataset, sampler = loader.dataset, loader.sampler
    plain = loader.collate_fn is default_collate and type(loader.batch_sampler) is BatchSampler
    if plain and isinstance(sampler, SubsetRandomSampler):
        return _of_dataset(Subset(dataset, list(sampler.indices)), name, loader.num_workers, room)
    if plain and isinstance(sampler, SequentialSampler):
        return _of_dataset(dataset, name, loader.num_workers, room)
    if plain and isinstance(sampler, RandomSampler) and not sampler.replacement:
        return _of_dataset(dataset, name, loader.num_workers, room)
    return _gathered(loader, name)


def _of_dataset(dataset: Dataset[Any], name: str, workers: int, room: Room | None) -> Split:
    try:
        count = len(dataset)  # type: ignore[arg-type]
    except (TypeError, NotImplementedError) as error:
        kind = type(dataset).__name__
        raise TypeError(f"{name} is a {kind} without a length: give it __len__") from error
    if count == 0:
        raise ValueError(f"{name} has no images")
    tensors = _tensors(dataset, name)
    if tensors is not None:
        return _resident(*tensors, name)
    return DatasetSplit(Checked(dataset, name), name=name, workers=workers, room=room)


def _tensors(dataset: Any, name: str) -> tuple[Tensor, Tensor] | None:
    """Images and labels of a dataset that has them as tensors; None for others."""
    if isinstance(dataset, Subset):
        whole = _tensors(dataset.dataset, name)
        index = torch.tensor([int(i) for i in dataset.indices], dtype=torch.int64)
        return whole and (whole[0][index], whole[1][index])
    if isinstance(dataset, TensorDataset) and len(dataset.tensors) == 2:
        images, labels = dataset.tensors
        check_strided(images, f"{name}: images")
        return images, labels
    return None


def _gathered(batches: Iterable[Any], name: str) -> TensorSplit:
    """All batches in one; a loader's shuffling is the same each time."""
    with seeded(0, "gathered", name):
        parts = [_resident(*pair(batch, name), name) for batch in batches]
    if not parts:
        raise ValueError(f"{name} has no batches; give {FORMS}")
    if len(shapes := {tuple(part.x.shape[1:]): None for part in parts}) > 1:
        several = " and ".join(str(list(shape)) for shape in list(shapes)[:2])
        raise ValueError(f"{name}: batches have images of {several}; give all one size")
    return TensorSplit(torch.cat([part.x for part in parts]), torch.cat([part.y for part in parts]))


def _resident(x: Any, y: Any, name: str) -> TensorSplit:
    try:
        x, y = (tensor_of(part).detach().cpu() for part in (x, y))
    except (TypeError, ValueError, RuntimeError) as error:
        kinds = " and ".join(type(part).__name__ for part in (x, y))
        raise ValueError(
            f"{name}: images and labels are a {kinds}, of which torch makes no tensors ({error}); "
            "give float32 [N, C, H, W] and class numbers [N]"
        ) from error
    _check_tensors(x, y, name)
    return TensorSplit(x, y.long())


def _check_tensors(x: Tensor, y: Tensor, name: str) -> None:
    for part, kind in ((x, "images"), (y, "labels")):
        check_strided(part, f"{name}: {kind}")
    if x.dtype != torch.float32:
        raise ValueError(f"{name}: images are {x.dtype}; {FLOATS}")
    if not x.isfinite().all():
        raise ValueError(f"{name}: some images hold NaN or infinite values")
    if x.dim() < 2 or y.dim() != 1 or y.is_floating_point() or len(x) != len(y) or not len(x):
        raise ValueError(
            f"{name}: images {list(x.shape)} and labels {list(y.shape)} of {y.dtype}; give "
            "[N, C, H, W] and class numbers [N]"
        )
