"""Memory-driven mixed precision (Rusci et al., arXiv 1905.13082)."""

from frameworks.heuristic.memory_driven.framework import MemoryDriven

__all__ = ["MemoryDriven"]
