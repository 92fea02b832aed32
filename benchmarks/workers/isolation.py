"""What a plugin may not change: the network and the data that it is given.

Every problem has a copy of the network, but shares its data with the cells that a worker computes
later; the final networks are made from another copy. Around every call of a plugin both are
compared, and a difference makes the cell a failed one. See `benchmarks.workers.process` for what
else a plugin may leave behind.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from frameworks import Data, Problem, Split

State = dict[str, Any]
"""What was found, by the name that a message gives it."""
_HELD = ("indices", "transform", "target_transform", "transforms", "samples", "targets", "labels",
         "data")  # fmt: skip
"""Attributes of a data set that decide on what it gives."""
_CACHES = ("_kept",)
"""Attributes of a split with copies of what it has read, of which nobody gets hold."""
_DEPTH = 16
"""A data set may be a part of a part, and so on, of another."""
_NAMED = 5
"""A message names at most so many things."""


class ChangedState(RuntimeError):
    """A plugin changed what is not its own; the message says what."""


def _bytes(tensor: Tensor) -> tuple[Any, ...]:
    """Type, shape and a checksum of a tensor; of none that has no memory to read."""
    facts = (str(tensor.dtype), tuple(tensor.shape), tensor.requires_grad)
    if tensor.device.type == "meta" or tensor.layout is not torch.strided:
        return facts
    plain = tensor.detach().cpu()
    if plain.dim() == 4 and not plain.is_contiguous():
        plain = plain.permute(0, 2, 3, 1)  # how images and their kernels lie in memory
    whole = plain.contiguous().reshape(-1)
    return (*facts, zlib.crc32(whole.view(torch.uint8).numpy()) if whole.numel() else 0)


def _settings(thing: object) -> tuple[Any, ...]:
    """The plain attributes of an object."""
    kinds = (bool, int, float, str, tuple, type(None))
    return tuple((k, v) for k, v in sorted(vars(thing).items()) if isinstance(v, kinds))


def network_state(network: nn.Module) -> State:
    """Weights, buffers, modes, hooks and settings of every module."""
    found: State = {}
    for name, module in network.named_modules():
        place = f"{name}." if name else ""
        hooks = len(module._forward_hooks), len(module._forward_pre_hooks)
        kind = (type(module), hooks, "forward" in vars(module), repr(_settings(module)))
        found[f"the module {name or 'network'}"] = kind
        for key, tensor in [*module._parameters.items(), *module._buffers.items()]:
            if tensor is not None:
                found[f"{place}{key}"] = _bytes(tensor)
    return found


def data_state(data: Data) -> State:
    """The images and labels that a search was given."""
    found: State = {}
    if data.calibration is not None:
        found["problem.images"] = _bytes(data.calibration)
    for name, split in (("problem.train", data.train), ("problem.valid", data.valid)):
        if split is not None:
            found[name] = _split_state(split)
    return found


def _split_state(split: Split) -> tuple[Any, ...]:
    held = {name: value for name, value in sorted(vars(split).items()) if name not in _CACHES}
    tensors = [_bytes(v) for v in held.values() if isinstance(v, Tensor)]
    others = [v for v in held.values() if not isinstance(v, Tensor)]
    inner = [_split_state(v) for v in others if isinstance(v, Split)]
    answers = [network_state(v) for v in others if isinstance(v, nn.Module)]
    settings = [one for one in _settings(split) if one[0] not in _CACHES]
    return (repr(settings), tensors, [_dataset_state(v) for v in others], inner, answers)


def _dataset_state(dataset: Any) -> tuple[Any, ...]:
    """What a data set on disk reads and how, through the parts that it may be one of.

    Only what is named so by torch's, torchvision's and timm's data sets is looked at: others may
    well keep what they have read or opened.
    """
    found: list[Any] = []
    for _ in range(_DEPTH):
        found.append((id(dataset), *(_held(getattr(dataset, name, None)) for name in _HELD)))
        inner = [getattr(dataset, name, None) for name in ("dataset", "reader")]
        dataset = next((one for one in inner if one is not None), None)
        if dataset is None:
            break
    return tuple(found)


def _held(value: Any) -> Any:
    """What stands for an attribute: its content where it is cheap to have, and which it is."""
    if isinstance(value, Tensor):
        return _bytes(value)
    if isinstance(value, np.ndarray) and not value.dtype.hasobject:
        return (str(value.dtype), value.shape, zlib.crc32(np.ravel(value).view(np.uint8)))
    text = repr(value)
    return (id(value), len(text), zlib.crc32(text.encode(errors="replace")))


@contextmanager
def unharmed(problem: Problem, who: str, forget: Callable[[], None]) -> Iterator[None]:
    """Within the context, the problem's network and data are not changed.

    Args:
        problem: what a plugin is given.
        who: names the plugin in the message.
        forget: called where data have changed, which later cells would otherwise share.

    Raises:
        ChangedState: something is changed, unless another error is on its way.
    """
    network, data = network_state(problem.network), data_state(problem.data)
    try:
        yield
    finally:
        spoiled = _changed(data, data_state(problem.data))
        if spoiled:
            forget()
    changed = [f"problem.network ({x})" for x in _changed(network, network_state(problem.network))]
    if all_changed := changed + spoiled:
        rest = len(all_changed) - _NAMED
        names = ", ".join(all_changed[:_NAMED]) + (f" and {rest} more" if rest > 0 else "")
        raise ChangedState(
            f"{who} changed {names}: take a copy, such as problem.float_model() or x.clone()"
        )


def _changed(before: State, after: State) -> list[str]:
    return [key for key in before | after if before.get(key) != after.get(key)]
