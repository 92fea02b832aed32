"""Quantizable layers: their shapes, multiply-accumulates and parameters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Layer:
    """One quantizable convolution or linear layer.

    Sizes are for one sample. ``positions`` is the number of output positions at which the kernel is
    applied (pixels of a convolution, tokens of a linear layer). Of a module that is called more
    than once, sizes are those of the first call and ``macs`` are summed over the calls.
    """

    name: str
    kind: str
    """``conv`` or ``linear``."""
    index: int
    """Position in execution order, from 0."""
    in_channels: int
    out_channels: int
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    groups: int
    in_size: tuple[int, ...]
    """Spatial size of the input; ``(tokens,)`` or ``()`` for a linear layer."""
    out_size: tuple[int, ...]
    params: int
    """Number of weights (the bias is not counted)."""
    macs: int
    """Multiply-accumulates of one sample."""
    block: str
    """Name of the residual block, transformer block or the like that holds the layer."""
    shared: str = ""
    """The earlier layer whose weight this one uses, stored once; empty for a weight of its own."""
    read: bool = False
    """The weight is read by a function, and no module is called with it."""
    transposed: bool = False
    """A transposed convolution, whose kernel is put down at each position of the input."""

    @property
    def depthwise(self) -> bool:
        """Whether every input channel has its own filters."""
        return self.groups == self.in_channels and self.groups > 1

    @property
    def stored(self) -> int:
        """Weights that this layer adds to what is stored: none that an earlier layer has."""
        return 0 if self.shared else self.params

    @property
    def positions(self) -> int:
        """Output positions of one sample."""
        return math.prod(self.out_size) if self.out_size else 1

    @property
    def calls(self) -> float:
        """How often the layer of these sizes is run for one sample.

        Once as a rule; more often if the model calls it again, or gives it several windows of the
        sample at once. In parts of the first call, if later ones have another size.
        """
        return self.macs / (self.positions * self.params)

    @property
    def in_elements(self) -> int:
        """Input activations of one sample."""
        return self.in_channels * (math.prod(self.in_size) if self.in_size else 1)

    @property
    def out_elements(self) -> int:
        """Output activations of one sample."""
        return self.out_channels * self.positions


def plane(sizes: Sequence[int]) -> tuple[int, int]:
    """A kernel or an image in two dimensions: a sequence is one column, a vector one pixel."""
    rows, columns = (*sizes, 1, 1)[:2]
    return rows, columns
