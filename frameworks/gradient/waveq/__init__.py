"""WaveQ, and the parts that are its own."""

from frameworks.gradient.waveq.framework import WaveQ

__all__ = ["WaveQ"]
