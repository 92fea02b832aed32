"""A network's weights and buffers: their fingerprint, and loading what a file holds of them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from textwrap import shorten

import torch
from safetensors.torch import load_file
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


_WRAPPED = ("state_dict", "model_state_dict", "model", "state_dict_ema", "model_ema", "net")
"""Where checkpoints of training scripts keep the weights."""
_PREFIXES = ("module.", "_orig_mod.", "model.")
"""What wrappers put before the names of weights."""


class Unreadable(ValueError):
    """A file that cannot be read as weights; the message says why, and what is expected."""


def _fault(error: Exception) -> str:
    """The one sentence of an error that says what is wrong.

    Of files with more than tensors in them torch writes a page of advice, in colours for terminals.
    """
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error))
    told = re.search(r"WeightsUnpickler error:\s*(.+?)(?:\. |\n|$)", text)
    return shorten(told[1] if told else text or type(error).__name__, 160, placeholder=" ...")


def read_weights(path: Path, names: Collection[str]) -> dict[str, Tensor]:
    """The weights in a file: safetensors, or what ``torch.load`` reads with ``weights_only``.

    Checkpoints that hold more (an optimizer, an epoch) are unwrapped, and the prefixes that
    ``DataParallel``, ``torch.compile`` and Lightning put before names are taken off where the model
    has no such names.

    Args:
        path: the file.
        names: of the model's weights and buffers.

    Raises:
        Unreadable: it is no such file, or only a part of one.
        ValueError: it holds no weights; the message says what there is.
    """
    tensors = path.suffix == ".safetensors"
    try:
        found = (
            load_file(path) if tensors else torch.load(path, map_location="cpu", weights_only=True)
        )
    except Exception as error:  # torch raises whatever comes, an OSError for a torn zip archive
        wanted = (
            "safetensors, as its name says"
            if tensors
            else "a state dict, as torch.save(model.state_dict(), FILE) writes it (safetensors has "
            "the suffix .safetensors)"
        )
        fault = f"cannot be read ({_fault(error)})"
        raise Unreadable(f"{fault}: is it whole? It must hold {wanted}") from error
    if not isinstance(found, Mapping):
        raise ValueError(f"it holds a {type(found).__name__}, no state dict")
    wrapped = (found[key] for key in _WRAPPED if isinstance(found.get(key), Mapping))
    state = dict(next(wrapped, found))
    odd = [name for name, value in state.items() if not isinstance(value, Tensor)]
    if odd or not state:
        raise ValueError(f"it holds no state dict; there are {sorted(map(str, found))[:8]}")
    for prefix in _PREFIXES:
        if not set(names) & set(state) and all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state


def fill(model: nn.Module, state: Mapping[str, Tensor], where: str) -> None:
    """Load weights and buffers that were read from ``where``, all of them.

    Raises:
        ValueError: they do not fit the model, or are not finite; the message begins with ``where``.
    """
    for tensor, own in model.state_dict().items():
        # torch would cast: integers without their scale, complex numbers to their real part.
        given = state.get(tensor, own)
        if own.is_floating_point() and not given.is_floating_point():
            kind = str(given.dtype).removeprefix("torch.")
            raise ValueError(
                f"{where} does not fit the model: {tensor} is {kind}, and floating-point in the "
                "model; save it as floats"
            )
    try:
        model.load_state_dict(state)
    except Exception as error:
        # torch lists every key, on a line each.
        fault = shorten(str(error), 200, placeholder=" ...")
        raise ValueError(f"{where} does not fit the model: {fault}") from error
    if name := first_nonfinite(model):
        raise ValueError(f"{where}: {name} has NaN or infinite values; make it anew")
