"""Rounding ties: which differences of codes float arithmetic explains.

Float sums in another order differ in their last bits, and a value that lies close to the middle
between two codes may then round to the other one. Nothing else makes two codes differ: neither a
value that lies on a code, nor a code beyond the grid, nor two codes that are no neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
TIE = 1e-3
"""Largest distance from a tie, in steps, that float arithmetic explains."""
INTEGER_TIE = 0.1
"""The same for biases that are rounded to units of both scales."""
LOGITS = 1e-4
"""Relative difference of real numbers that float arithmetic explains without a change of a code."""
PART = 0.01
"""Part of a step by which values before a quantizer may differ.

BatchNorm of channels that hardly vary magnifies float arithmetic beyond `LOGITS`.
"""
ROUNDING = 4e-6
"""Relative error of a sum: with 16 bits it is a larger part of a step than `TIE`."""
CODES_TIED = 1e-3
"""Largest share of tied codes beyond that of values which lie evenly between two codes.

Of these a share of 2 t lies within t of the middle. In good files at 224 px with `TIE` and 2 to 8
bits at most one code in 100,000 was tied.
"""
FEW = 10
"""That many ties are no share."""


@dataclass(frozen=True)
class Tolerance:
    """What explains a difference.

    Attributes:
        tie: largest distance from a rounding tie, in steps.
        moved: by how much real numbers may differ beyond float arithmetic, as rounded biases add.
    """

    tie: float = TIE
    moved: float = 0.0

    def steps(self, steps: Array, step: float = 1.0) -> float:
        """The largest distance from a tie for values of this size, in steps of a grid."""
        largest = float(np.abs(steps).max(initial=0))
        rounding = ROUNDING * largest if np.isfinite(largest) else 0.0
        return max(self.tie, rounding) + self.moved / step

    def real(self, values: Array) -> float:
        """The largest difference of real numbers of this size."""
        return LOGITS * float(np.abs(values).max(initial=0)) + self.moved

    def clipped(self, values: Array, inside: Array, step: float) -> float:
        """The largest difference of values before a quantizer.

        Args:
            values: the values; where most are clipped, sums are of their size all the same.
            inside: the same within the grid.
            step: the grid's.
        """
        rounding = ROUNDING * float(np.abs(values).max(initial=0))
        return max(self.real(inside), rounding + max(self.tie, PART) * step + self.moved)


def distances(steps: Array, theirs: Array, low: float, high: float) -> Array:
    """How far values are from rounding to another network's codes, in steps.

    Args:
        steps: values in steps of the grid, its offset taken off.
        theirs: the other network's codes, in the same places.
        low: smallest code of the grid.
        high: largest code.

    Returns:
        As ``steps``: -1 where the codes are the same; else the distance from the middle between the
        other code and its neighbour on this side, 0 on a tie itself; inf where the other code is
        none of the grid's, and where anything is no number.
    """
    inside = np.clip(steps, low, high)
    on_grid = (theirs >= low) & (theirs <= high) & np.isfinite(steps)
    off = np.where(on_grid, np.abs(inside - theirs) - 0.5, np.inf)
    found: Array = np.where(np.round(inside) == theirs, -1.0, np.maximum(off, 0))
    return found


@dataclass
class Ties:
    """What the comparison of codes has found so far.

    Attributes:
        codes: how many were compared.
        tied: how many differ by a rounding tie.
        likely: how many could, if values lie evenly between the codes.
        distance: largest distance from a tie among these, in steps.
    """

    codes: int = 0
    tied: int = 0
    likely: float = 0.0
    distance: float = 0.0

    def add(self, off: Array, most: float) -> Array:
        """Count distances; returns those that are no ties.

        Args:
            off: what `distances` gives.
            most: the largest distance of a tie.
        """
        tied = (off >= 0) & (off <= most)
        self.codes += off.size
        self.tied += int(tied.sum())
        self.likely += 2 * most * off.size
        self.distance = max(self.distance, float(off[tied].max(initial=0)))
        wrong: Array = ~(off <= most)
        return wrong

    @property
    def too_many(self) -> bool:
        """Whether there are more ties than ties explain."""
        return self.tied > FEW + self.likely + CODES_TIED * self.codes
