"""OMPQ, and the parts that are its own."""

from frameworks.heuristic.ompq.framework import OMPQ

__all__ = ["OMPQ"]
