"""Which tensors are the same numbers in memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

Place = tuple[Any, ...]
Memo = dict[tuple[Any, ...], nn.Parameter]
"""Copies by what they are copies of."""


def storage_of(weight: Tensor) -> Place:
    """What two tensors have in common that begin at the same number in memory."""
    return weight.untyped_storage()._cdata, weight.storage_offset()


def copied_once(
    weight: Tensor, memo: Memo | None, change: Callable[[Tensor], Tensor] = lambda x: x
) -> nn.Parameter:
    """A parameter with a changed copy of a tensor: the same one for what is stored once.

    Args:
        weight: the tensor.
        memo: the copies made so far; None for a new one.
        change: gives the copy its form.
    """
    key = (*storage_of(weight), tuple(weight.shape), weight.stride())
    known = None if memo is None else memo.get(key)
    if known is None:
        known = nn.Parameter(change(weight.detach()).clone(), weight.requires_grad)
        if memo is not None:
            memo[key] = known
    return known
