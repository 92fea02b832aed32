"""DJPQ, and the parts that are its own."""

from frameworks.gradient.djpq.framework import DJPQ

__all__ = ["DJPQ"]
