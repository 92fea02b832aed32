"""ZeroQ, and the parts that are its own."""

from frameworks.heuristic.zeroq.framework import ZeroQ

__all__ = ["ZeroQ"]
