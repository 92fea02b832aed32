"""The benchmark suite: data, models, cells, records and tables."""

__version__ = "0.4.0"
