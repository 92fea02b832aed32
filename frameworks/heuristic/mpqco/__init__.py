"""MPQCO: mixed-precision quantization by constrained optimization (arXiv 2110.06554)."""

from frameworks.heuristic.mpqco.framework import MPQCO

__all__ = ["MPQCO"]
