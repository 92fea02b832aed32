"""Training recipes as configuration: the fields of `frameworks.Recipe`, checked by Hydra."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from frameworks import Recipe


@dataclass
class RecipeConfig:
    """See `frameworks.Recipe`, whose fields and defaults these are."""

    epochs: float = 1
    images: int | None = None
    batch: int = 128
    optimizer: str = "sgd"
    lr: float = 0.01
    range_lr: float = 0.1
    schedule: str = "cosine"
    momentum: float = 0.9
    weight_decay: float = 1e-4
    augment: bool = False


def recipe_of(entries: RecipeConfig | Mapping[str, Any], field: str) -> Recipe:
    """A recipe from configuration; ``field`` names it in messages.

    Raises:
        ValueError: an unknown entry or a value out of range.
    """
    plain = asdict(entries) if isinstance(entries, RecipeConfig) else dict(entries)
    try:
        return Recipe(**plain)
    except (TypeError, ValueError) as error:
        choices = ", ".join(Recipe.__dataclass_fields__)
        raise ValueError(f"{field}: {error}; the entries are {choices}") from error
