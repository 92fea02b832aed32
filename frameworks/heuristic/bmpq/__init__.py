"""BMPQ, and the parts that are its own."""

from frameworks.heuristic.bmpq.framework import BMPQ

__all__ = ["BMPQ"]
