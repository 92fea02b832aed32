"""What hyper-parameters may be: limits by their names, which mean the same in every framework."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from frameworks.core.framework import Framework

COUNTS = frozenset(
    {
        "batch", "bins", "episodes", "epochs", "evaluations", "generations", "hidden1", "hidden2",
        "images", "interval", "iterations", "limit", "low_replay", "offspring", "points",
        "population", "probes", "replay", "sample_every", "samples", "step", "steps", "subsets",
    }
)  # fmt: skip
"""Names of counts that must be at least 1; at least 0 where 0 is the default (no limit, all)."""
RATES = ("lr", "decay", "noise", "tau", "temperature", "tolerance")
"""A number whose name is or ends with one of these must not be negative."""
SHARES = frozenset({"share", "discount", "low_discount", "tau"})
"""Names of numbers that must not exceed 1."""


def fault(name: str, value: Any, default: Any) -> str | None:
    """What is wrong with the value of a hyper-parameter, or None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if not math.isfinite(value):
        return "must be finite"
    if name in COUNTS:
        least = 0 if default == 0 else 1
        return None if value >= least else f"must be at least {least}"
    whole = isinstance(value, int) and isinstance(default, int) and default >= 0
    rate = any(name == end or name.endswith(f"_{end}") for end in RATES)
    if value < 0 and (whole or rate or name in SHARES):
        return "must not be negative"
    if value > 1 and name in SHARES:
        return "must not exceed 1"
    return None


def check_hyperparameters(framework: Framework) -> None:
    """Compare a framework's numbers with what their names and defaults say.

    Raises:
        ValueError: a number cannot be used; the message names it.
    """
    defaults = type(framework)().hyperparameters()
    for name, value in framework.hyperparameters().items():
        reason = fault(name, value, defaults[name])
        if reason is None and name == framework.strength and value < 0:
            reason = "must not be negative"  # it weighs the cost
        if reason is not None:
            raise ValueError(f"{name} = {value}: {reason}")
