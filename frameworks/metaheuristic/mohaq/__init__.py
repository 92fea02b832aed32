"""MOHAQ, and the parts that are its own."""

from frameworks.metaheuristic.mohaq.framework import MOHAQ

__all__ = ["MOHAQ"]
