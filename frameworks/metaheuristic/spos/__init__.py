"""SPOS, and the parts that are its own."""

from frameworks.metaheuristic.spos.framework import SPOS

__all__ = ["SPOS"]
