"""The practical mixed-precision algorithm for PTQ, and the parts that are its own."""

from frameworks.heuristic.practical_ptq.framework import PracticalPTQ

__all__ = ["PracticalPTQ"]
