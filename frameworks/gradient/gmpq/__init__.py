"""GMPQ, and the parts that are its own."""

from frameworks.gradient.gmpq.framework import GMPQ

__all__ = ["GMPQ"]
