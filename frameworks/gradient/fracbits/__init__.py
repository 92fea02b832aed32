"""FracBits, and the parts that are its own."""

from frameworks.gradient.fracbits.framework import FracBits, FracBitsKernel

__all__ = ["FracBits", "FracBitsKernel"]
