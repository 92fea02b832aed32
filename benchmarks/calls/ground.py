"""A caller's network and data, looked over and made ready, and where they are computed on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from benchmarks.calls.checked import Checked
from benchmarks.calls.images import Images, as_split
from benchmarks.data.load import Splits, check_labels
from benchmarks.fingerprints.numerics import computing_in, place, place_named
from benchmarks.models.network_check import (
    PROBES,
    check_modules,
    check_network,
    uncompiled,
)
from benchmarks.models.pretrain import accuracy_here
from benchmarks.models.weights import fingerprint
from benchmarks.suite.assets import inspected
from benchmarks.suite.ground import Ground
from frameworks import DatasetSplit, Room, Split, TensorSplit, copied, torch_rng

MEMORY = 2.0**30
"""Bytes that decoded images of ``valid`` and ``test`` may take; ``train`` may be augmented."""


@contextmanager
def computing_on(device: str, amp: str) -> Iterator[None]:
    """Within the context this process computes on a device.

    See `benchmarks.fingerprints.numerics.place_named`.

    Raises:
        ValueError: there is no such device, or precision.
    """
    with computing_in(place_named(device, amp)):
        yield


def ground_from(model: nn.Module, train: Images, valid: Images, test: Images | None) -> Ground:
    """What the cells of a call are computed on; the caller's network is copied.

    Raises:
        TypeError: an argument is of a wrong type.
        ValueError: the network cannot be quantized, or data cannot be used.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model is a {type(model).__name__}: give a torch.nn.Module")
    # Before it is copied or run: torch's own words for these name no tensor.
    plain = uncompiled(model)
    check_modules(plain, "model")
    room = Room(MEMORY)
    parts = {"train": as_split(train, "train"), "valid": as_split(valid, "valid", room)}
    parts["test"] = parts["valid"] if test is None else as_split(test, "test", room)
    network = copied(plain).cpu().eval()
    images = parts["train"].subset(PROBES, torch_rng(0, "probe")).images()
    shape: Any = tuple(images.shape[1:])
    if len(shape) == 3:
        network = network.to(memory_format=torch.channels_last)
    classes = _classes(network, images)
    check_network(network, images, classes, "model")
    assert classes is not None
    for name, split in parts.items():
        _check_split(split, name, shape, classes)
    splits = Splits(**parts, classes=classes, input_shape=shape)
    _, accounting = inspected(network, splits, "model")
    here = splits.to(place().device)
    facts = {"checkpoint": fingerprint(network), "origin": "the caller's"}
    return Ground(here, network, accuracy_here(network, here.test), accounting, facts)


def _check_split(split: Split, name: str, shape: tuple[int, ...], classes: int) -> None:
    """Compare a part with train's images and the network's outputs.

    A dataset's other images are compared as they are read; see `benchmarks.calls.checked`.
    """
    own = tuple(split.images(1).shape[1:])
    if own != shape:
        raise ValueError(f"{name}: images of {list(own)}, train's {list(shape)}")
    if isinstance(split, TensorSplit):
        check_labels(split.y, classes, f"{name}, with a model of {classes} outputs")
    elif isinstance(split, DatasetSplit):
        for dataset in (split.dataset, split.augmented):
            if isinstance(dataset, Checked):
                dataset.classes = classes


@torch.no_grad()
def _classes(network: nn.Module, images: torch.Tensor) -> int | None:
    """How many logits the network gives; None where it gives none."""
    try:
        output = network(images)
    except Exception as error:
        raise ValueError(
            f"model fails on images of train, {list(images.shape)}: {error}"
        ) from error
    return output.shape[1] if isinstance(output, torch.Tensor) and output.dim() == 2 else None
