"""How many images may go together, by the bytes of the tensors that they need at once.

Bytes are counted where every device reports them alike: as tensors come and go. What a kernel
takes for itself while it runs (a convolution's scratch memory, say) is not seen.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_leaves

from frameworks.core.networks.taking.watching import Watching

BOUND = 2**30
"""Bytes that the tensors of an estimate take at most, if one image needs no more."""
MARGIN = 0.9
"""The share of the bound that is planned with, as bytes are not quite proportional to images."""


class Live(Watching):
    """Counts the bytes of the tensors that are made within the context.

    Attributes:
        now: those that are still alive.
        peak: the most that were alive at once.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for leaf in tree_leaves((args, kwargs)):
            self._see(leaf, made=False)
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            self._see(leaf, made=True)
        return out

    def _see(self, leaf: Any, made: bool) -> None:
        if not isinstance(leaf, Tensor):
            return
        storage = leaf.untyped_storage()
        key = storage._cdata
        if key in self._known:
            return
        size = storage.nbytes() if made else 0
        self._known.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._end, key, size)

    def _end(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


def peak(work: Callable[[], object]) -> int:
    """The most bytes of tensors that are alive at once while something is done."""
    live = Live()
    with live:
        work()
    return live.peak


def fitting(work: Callable[[int], object], most: int, bound: int) -> int:
    """How many images may go together; 0 where already one needs more than the bound.

    Args:
        work: takes a number of images (1 or 2) and does with them what will be done with more.
        most: at most this many.
        bound: bytes.
    """
    one = peak(lambda: work(1))
    if one * most <= bound or one > bound:
        return most if one <= bound else 0
    each = max(peak(lambda: work(2)) - one, 1)  # the rest does not grow with the images
    return max(1, min(most, int((MARGIN * bound - one) // each) + 1))
