"""BP-NAS, and the parts that are its own."""

from frameworks.gradient.bp_nas.framework import BPNAS

__all__ = ["BPNAS"]
