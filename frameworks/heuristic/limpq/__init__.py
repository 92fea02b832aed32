"""LIMPQ, and the parts that are its own."""

from frameworks.heuristic.limpq.framework import LIMPQ

__all__ = ["LIMPQ"]
