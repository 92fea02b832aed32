"""Layers as functions of the images: the tensor that stands for each of them, and its Gram matrix.

The released code takes a layer's output after BatchNorm and activation, before any pooling, and for
the last convolution of a residual block the block's output, after the sum; the convolution on the
shortcut, which ends in the same sum, has no feature of its own and shares that one's bits. In any
network this is what the next layer reads that depends on a layer; or, where that has fewer elements
than the layer's output (it was pooled, or is a part), the last tensor of the output's shape that it
was made of. Layers with one such tensor are one function.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from frameworks.core.estimators.taps import tapped
from frameworks.core.networks.batchnorm import batchnorms
from frameworks.heuristic.ompq.orthogonality import gram
from frameworks.heuristic.ompq.ways import Readers, watched


class Function(NamedTuple):
    """Layers that one tensor stands for, and its shape for one image."""

    layers: list[str]
    shape: torch.Size


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


@torch.no_grad()
def functions(
    model: nn.Module, read_by: Readers, names: Sequence[str], image: Tensor
) -> list[Function]:
    """The layers in groups that one tensor stands for.

    They are in the order of their last layers, so that it does not matter whether a block runs its
    shortcut or its main path first.

    Args:
        model: in eval mode.
        read_by: see `readers`.
        names: the layers, in execution order.
        image: one image ``[1, ...]``.
    """
    features: dict[str, Tensor] = {}
    with watched(model, {name: read_by[name] for name in names}, features.setdefault):
        model(image)
    found: dict[tuple[str | None, int], list[str]] = {}
    for name in names:
        place = (read_by[name], id(features[name]))
        found[place] = [*found.pop(place, []), name]
    return [Function(layers, features[layers[0]].shape) for layers in found.values()]


@torch.no_grad()
def grams(
    model: nn.Module,
    read_by: Readers,
    found: Sequence[Function],
    images: Tensor,
    *,
    centred: bool = True,
    batch_statistics: bool = True,
) -> list[Tensor]:
    """Gram matrices ``[N, N]`` of functions, on the CPU.

    Args:
        model: in eval mode; a copy, as its BatchNorm statistics may change.
        read_by: see `readers`.
        found: see `functions`.
        images: ``[N, C, H, W]``.
        centred: see `frameworks.heuristic.ompq.orthogonality.gram`.
        batch_statistics: BatchNorm normalises by these images, and not by what it has stored.
    """
    shapes = {function.layers[0]: function.shape for function in found}
    matrices: dict[str, Tensor] = {}

    def seen(name: str, x: Tensor) -> None:
        matrices[name] = gram(_images_first(x, shapes[name]), centred=centred).cpu()

    for norm in batchnorms(model) if batch_statistics else ():
        norm.train()
    with watched(model, {name: read_by[name] for name in shapes}, seen):
        model(images)
    return [matrices[name] for name in shapes]


def _images_first(x: Tensor, alone: Sequence[int]) -> Tensor:
    """A tensor of N images as ``[N, ...]``, told by its shape for one image."""
    pairs = enumerate(zip(x.shape, alone, strict=True))
    axis = next((i for i, (many, one) in pairs if many != one), 0)
    count = x.shape[axis] // alone[axis]
    return x.movedim(axis, 0).reshape(count, -1)
