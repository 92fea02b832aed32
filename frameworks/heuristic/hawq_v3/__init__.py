"""HAWQ-V3, and the parts that are its own."""

from frameworks.heuristic.hawq_v3.framework import HAWQV3

__all__ = ["HAWQV3"]
