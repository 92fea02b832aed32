"""Data sets: each module registers its loaders; `load` gives a configuration's three splits."""

from benchmarks.data.load import DatasetConfig, Splits, load

__all__ = ["DatasetConfig", "Splits", "load"]
