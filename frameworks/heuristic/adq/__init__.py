"""ADQ, and the parts that are its own."""

from frameworks.heuristic.adq.framework import ADQ

__all__ = ["ADQ"]
