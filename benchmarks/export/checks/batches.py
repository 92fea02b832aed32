"""How many images are run at once."""

from __future__ import annotations

from frameworks import QModel

BATCH = 125
MEMORY = 2**28
"""Bytes of the inputs of all layers that are held at once."""


def batch_size(model: QModel) -> int:
    """Images at once, at most `BATCH`, so that all layers' inputs and their codes fit `MEMORY`."""
    elements = sum(layer.in_elements * layer.calls for layer in model.layers)
    return int(min(max(MEMORY // (8 * elements), 1), BATCH))
