"""ADRL, and the parts that are its own."""

from frameworks.reinforcement.adrl.framework import ADRL

__all__ = ["ADRL"]
