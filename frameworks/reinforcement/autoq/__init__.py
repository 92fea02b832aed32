"""AutoQ, and the parts that are its own."""

from frameworks.reinforcement.autoq.framework import AutoQ

__all__ = ["AutoQ"]
