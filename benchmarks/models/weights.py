"""A network's weights and buffers: their fingerprint, and loading what a file holds of them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from textwrap import shorten

from torch import Tensor, contiguous_format, nn

from frameworks import first_nonfinite


def fingerprint(model: nn.Module) -> str:
    """A digest of the weights and buffers."""
    found = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        found.update(name.encode())
        found.update(value.detach().contiguous().cpu().numpy().tobytes())
    return found.hexdigest()[:16]


def contiguous(model: nn.Module) -> dict[str, Tensor]:
    """Copies of all weights and buffers by name, laid out as safetensors needs them."""
    return {k: v.detach().clone(memory_format=contiguous_format)
            for k, v in model.state_dict().items()}  # fmt: skip


def fill(model: nn.Module, state: Mapping[str, Tensor], where: str) -> None:
    """Load weights and buffers that were read from ``where``, all of them.

    Raises:
        ValueError: they do not fit the model, or are not finite; the message begins with ``where``.
    """
    try:
        model.load_state_dict(state)
    except Exception as error:
        # torch lists every key, on a line each.
        fault = shorten(str(error), 200, placeholder=" ...")
        raise ValueError(f"{where} does not fit the model: {fault}") from error
    if name := first_nonfinite(model):
        raise ValueError(f"{where}: {name} has NaN or infinite values; make it anew")
