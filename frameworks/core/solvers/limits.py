"""When a cost is within its limit, and what is said where none can be."""

from __future__ import annotations

TOLERANCE = 1e-9
"""Relative slack of a limit, for sums in another order."""


class InfeasibleBudget(ValueError):
    """No policy of the space meets the budget."""
