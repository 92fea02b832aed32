"""Quantizer groups (arXiv 2302.05397): layers whose bits the hardware's kernels tie.

A tensor has one quantizer, whichever layers read it, so that layers which read one tensor share
their activation bits; and a kernel takes pairs of weight and activation bits, so that they share
the pair. The protocol's own ties are joined to these.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from frameworks.core.problem import Problem
from frameworks.core.solvers.milp import tied


def groups_of(problem: Problem) -> list[tuple[str, ...]]:
    """The groups of the layers that have a choice, in execution order.

    Layers that read one tensor but have different candidates stay apart.
    """
    free = [layer.name for layer in problem.space.free_layers]
    entries = problem.layer_entries()
    together = [list(group) for group in problem.space.groups if group[0] in free]
    for names in readers(problem.float_model(), free, problem.images[:1]):
        alike: dict[tuple[tuple[int, int], ...], list[str]] = {}
        for name in names:
            alike.setdefault(tuple(entries[name]), []).append(name)
        together += alike.values()
    return tied(free, together)


@torch.no_grad()
def readers(model: nn.Module, names: Sequence[str], image: Tensor) -> list[list[str]]:
    """The layers by the tensor that they read in their first call, in execution order.

    Args:
        model: in eval mode.
        names: the layers.
        image: one image ``[1, ...]``.
    """
    found: dict[tuple[int, ...], list[str]] = {}
    kept: dict[str, Tensor] = {}  # alive, so that no other tensor gets their place

    def read(name: str, module: nn.Module, args: tuple[Any, ...]) -> None:
        x = args[0]
        if name not in kept:
            kept[name] = x
            # Two views of all of a tensor, such as x.flatten(1) twice, are one.
            place = x.untyped_storage()._cdata, x.storage_offset(), x.numel(), x._version
            found.setdefault(place, []).append(name)

    handles = [
        model.get_submodule(name).register_forward_pre_hook(partial(read, name)) for name in names
    ]
    try:
        model(image)
    finally:
        for handle in handles:
            handle.remove()
    return list(found.values())
