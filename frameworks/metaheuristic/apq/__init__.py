"""APQ, and the parts that are its own."""

from frameworks.metaheuristic.apq.framework import APQ

__all__ = ["APQ"]
