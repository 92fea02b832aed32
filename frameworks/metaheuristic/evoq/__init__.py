"""EvoQ, and the parts that are its own."""

from frameworks.metaheuristic.evoq.framework import EvoQ

__all__ = ["EvoQ"]
