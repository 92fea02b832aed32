"""A policy from a file."""

from frameworks.baselines.given.framework import Given

__all__ = ["Given"]
