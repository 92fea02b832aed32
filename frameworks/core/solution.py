"""What a search returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from frameworks.core.policy import Policy


@dataclass(frozen=True)
class Point:
    """One policy of a Pareto front, with its objectives (all to be minimised)."""

    policy: Policy
    objectives: Mapping[str, float]


@dataclass(frozen=True)
class Scores:
    """What a scoring pass found, independent of the budget.

    ``values`` is plain data (numbers, strings, lists, dicts), so that the suite can keep it and
    solve for another budget later. ``images`` are those that a data-free method made, for
    `Solution.images`; the suite keeps them, too.
    """

    values: Mapping[str, Any]
    images: Tensor | None = None


@dataclass
class Solution:
    """The outcome of a search.

    Attributes:
        policy: the policy found.
        weights: float weights trained during the search (a state dict of the float model), if the
            method makes any; under ``protocol=paper`` fine-tuning starts from them.
        front: all points of a Pareto front, if the method finds one; ``policy`` is the one it
            recommends for the problem's budget.
        images: images that the method made and wants to calibrate on (data-free methods).
        notes: facts for the record, plain data (sensitivities, final temperature, ...).
        cross_entropy: what a search that trains ended at, without its penalty; None for others.
            By it `frameworks.core.search.steering` knows a network that the penalty has destroyed.
    """

    policy: Policy
    weights: Mapping[str, Tensor] | None = None
    front: tuple[Point, ...] = ()
    images: Tensor | None = None
    notes: dict[str, Any] = field(default_factory=dict)
    cross_entropy: float | None = None
