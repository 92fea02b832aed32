"""ReLeQ, and the parts that are its own."""

from frameworks.reinforcement.releq.framework import ReLeQ

__all__ = ["ReLeQ"]
