"""Networks: building, checking, pretraining them, and those that come with the project."""

from benchmarks.models.build import ModelConfig, create

__all__ = ["ModelConfig", "create"]
