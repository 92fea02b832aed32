"""What the contract tests compare before and after a call."""

from __future__ import annotations

import json
import random
from typing import Any

import numpy as np
import torch


def global_random_state() -> tuple[Any, ...]:
    """The states of the global generators of Python, NumPy and torch."""
    kind, keys, *rest = np.random.get_state()  # noqa: NPY002 (it is the global state we check)
    return random.getstate(), kind, np.asarray(keys).tobytes(), rest, torch.get_rng_state().tolist()


def check_plain(what: str, data: Any) -> None:
    """Refuse what JSON cannot hold: records and shared scores are files of it."""
    try:
        json.dumps(data, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise AssertionError(
            f"{what} cannot be written as JSON ({error}): use numbers that are finite, texts, "
            f"lists and dictionaries, not {data!r:.200}"
        ) from error


def plain(data: Any) -> Any:
    """Data as they come back from JSON."""
    return json.loads(json.dumps(data, allow_nan=False))
