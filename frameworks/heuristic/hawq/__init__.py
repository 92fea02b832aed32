"""HAWQ, and the part that is its own."""

from frameworks.heuristic.hawq.framework import HAWQ

__all__ = ["HAWQ"]
