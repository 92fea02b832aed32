"""SDQ, and the parts that are its own."""

from frameworks.gradient.sdq.framework import SDQ

__all__ = ["SDQ"]
