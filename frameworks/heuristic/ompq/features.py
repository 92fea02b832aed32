"""Layers as functions of the images: what is read of each of them next, and its Gram matrix.

The released code takes a layer's output after BatchNorm and activation, and for the last
convolution of a residual block the block's output, after the sum; the convolution on the shortcut,
which ends in the same sum, has no feature of its own and shares that one's bits. In any network
this is what the next layer reads that depends on a layer: layers of which one tensor is read are
one function.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from frameworks.core.estimators.taps import tapped
from frameworks.core.networks.batchnorm import batchnorms
from frameworks.heuristic.ompq.orthogonality import gram

Place = tuple[str, bool]
"""A layer, and whether its input is meant (else its output)."""


def readers(model: nn.Module, names: Sequence[str], image: Tensor) -> dict[str, str | None]:
    """By layer: the next one in execution order whose input depends on its output.

    None where no layer follows. Of a layer that is called again the first call counts.

    Args:
        model: in eval mode.
        names: all quantizable layers in execution order.
        image: one image ``[1, ...]``.
    """
    found: dict[str, str | None] = dict.fromkeys(names)
    waiting: dict[str, Tensor] = {}
    with torch.enable_grad(), tapped(model, inputs=names, outputs=names) as taps:
        model(image)
        for name in names:
            for earlier in _reached(taps.inputs[name][0], waiting):
                found[earlier] = name
                del waiting[earlier]
            waiting[name] = taps.outputs[name][0]
    return found


def _reached(read: Tensor, waiting: Mapping[str, Tensor]) -> list[str]:
    """The layers whose outputs a tensor was computed from."""
    if not waiting:
        return []
    gradients = torch.autograd.grad(
        read, list(waiting.values()), torch.ones_like(read), retain_graph=True, allow_unused=True
    )
    return [name for name, g in zip(waiting, gradients, strict=True) if g is not None]


def functions(read_by: Mapping[str, str | None], names: Sequence[str]) -> dict[Place, list[str]]:
    """The layers in groups of which one tensor is read, by its place.

    They are in the order of their last layers, so that it does not matter whether a block runs its
    shortcut or its main path first.
    """
    found: dict[Place, list[str]] = {}
    for name in names:
        reader = read_by[name]
        place = (name, False) if reader is None else (reader, True)
        found[place] = [*found.pop(place, []), name]
    return found


@torch.no_grad()
def grams(
    model: nn.Module,
    places: Sequence[Place],
    images: Tensor,
    *,
    centred: bool = True,
    batch_statistics: bool = True,
) -> list[Tensor]:
    """Gram matrices ``[N, N]`` of what is at places (see `functions`), on the CPU.

    Args:
        model: in eval mode; a copy, as its BatchNorm statistics may change.
        places: see `functions`.
        images: ``[N, C, H, W]``.
        centred: see `frameworks.heuristic.ompq.orthogonality.gram`.
        batch_statistics: BatchNorm normalises by these images, and not by what it has stored.
    """
    alone: dict[Place, torch.Size] = {}
    with _watched(model, places, lambda place, x: alone.setdefault(place, x.shape)):
        model(images[:1])
    found: dict[Place, Tensor] = {}

    def seen(place: Place, x: Tensor) -> None:
        if place not in found:
            found[place] = gram(_images_first(x, alone[place]), centred=centred).cpu()

    for norm in batchnorms(model) if batch_statistics else ():
        norm.train()
    with _watched(model, places, seen):
        model(images)
    return [found[place] for place in places]


def _images_first(x: Tensor, alone: Sequence[int]) -> Tensor:
    """A tensor of N images as ``[N, ...]``, told by its shape for one image."""
    pairs = enumerate(zip(x.shape, alone, strict=True))
    axis = next((i for i, (many, one) in pairs if many != one), 0)
    count = x.shape[axis] // alone[axis]
    return x.movedim(axis, 0).reshape(count, -1)


@contextmanager
def _watched(
    model: nn.Module, places: Sequence[Place], seen: Callable[[Place, Tensor], object]
) -> Iterator[None]:
    """Within the context, what is at each place is seen as it comes by."""
    handles = []
    for place in places:
        name, reads = place
        module = model.get_submodule(name)
        if reads:
            hook = partial(_reads, seen, place)
            handles.append(module.register_forward_pre_hook(hook))
        else:
            handles.append(module.register_forward_hook(partial(_gives, seen, place)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _reads(
    seen: Callable[[Place, Tensor], object], place: Place, module: nn.Module, args: tuple[Any, ...]
) -> None:
    seen(place, args[0])


def _gives(
    seen: Callable[[Place, Tensor], object],
    place: Place,
    module: nn.Module,
    args: tuple[Any, ...],
    output: Tensor,
) -> None:
    seen(place, output)
