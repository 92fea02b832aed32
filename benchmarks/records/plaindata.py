"""What a plugin hands over for a record, as plain data: numbers, text, lists and objects.

What has a plain meaning is converted (NumPy's and torch's numbers, small arrays and tensors,
tuples, paths); of all else the message says where it is, what it is and what to give instead.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Iterable, Mapping
from os import PathLike
from pathlib import PurePath
from typing import Any

import numpy as np
from torch import Tensor

from benchmarks.records.schema import DEEPEST, LARGEST

MOST = 1_000_000
"""Numbers, texts, lists and objects in one record's data; an array may hold a hundredth of it."""


class NotPlain(TypeError):
    """Data cannot be written into a record; the message names the entry and the cure."""


def as_plain(value: Any, where: str, *, exact: bool = False) -> Any:
    """The same as plain data.

    Args:
        value: what was handed over.
        where: what to call it in messages.
        exact: refuse keys that are whole numbers, which JSON would turn into text.

    Raises:
        NotPlain: it holds what has no plain meaning, contains itself, or is too large.
    """
    return _Converter(exact).convert(value, where, ())


class _Converter:
    def __init__(self, exact: bool) -> None:
        self.exact, self.count = exact, 0

    def convert(self, value: Any, where: str, above: tuple[int, ...]) -> Any:
        """One value; ``above`` are the identities of the containers that it is in."""
        self.count += 1
        if self.count > MOST:
            raise NotPlain(f"{where}: more than {MOST} entries in all; give a summary")
        if value is None or isinstance(value, bool | np.bool_):
            return value if value is None else bool(value)
        if isinstance(value, str | PathLike | enum.Enum | int | float | np.number):
            return _scalar(value, where)
        if isinstance(value, Tensor | np.ndarray):
            return self.convert(_numbers(value, where), where, above)
        if not isinstance(value, Mapping | list | tuple):
            raise NotPlain(f"{where} is a {type(value).__qualname__}: give {_cure(value)}")
        if id(value) in above:
            raise NotPlain(f"{where} contains itself: give a copy of what is meant")
        if len(above) >= DEEPEST - 5:
            raise NotPlain(f"{where} is nested too deeply: give a flatter form")
        return self._container(value, where, (*above, id(value)))

    def _container(self, value: Any, where: str, above: tuple[int, ...]) -> Any:
        if not isinstance(value, Mapping):
            return [self.convert(x, f"{where}[{i}]", above) for i, x in enumerate(value)]
        keys = [self._key(key, where) for key in value]
        if len(set(keys)) < len(keys):
            raise NotPlain(f"{where} has two keys that are the same as text")
        pairs: Iterable[tuple[str, Any]] = zip(keys, value.values(), strict=True)
        return {key: self.convert(x, f"{where}[{key!r}]", above) for key, x in pairs}

    def _key(self, key: Any, where: str) -> str:
        if isinstance(key, str) and not isinstance(key, enum.Enum):
            return _text(key)
        if isinstance(key, int | np.integer) and not isinstance(key, bool) and not self.exact:
            return str(int(key))
        raise NotPlain(f"{where} has the key {ascii(key)[:60]}: give text, such as str(key)")


def _scalar(value: Any, where: str) -> str | int | float:
    if isinstance(value, enum.Enum):
        raise NotPlain(f"{where} is a {type(value).__qualname__}: give its value or its name")
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, PathLike):
        if not isinstance(value, PurePath):
            raise NotPlain(f"{where} is a {type(value).__qualname__}: give str(x)")
        return _text(str(value))
    if isinstance(value, np.complexfloating):
        raise NotPlain(f"{where} is complex: give its parts")
    if isinstance(value, float | np.floating):
        return float(value)
    if not -LARGEST < int(value) < LARGEST:
        raise NotPlain(f"{where} is too large a number for a record: give its logarithm, say")
    return int(value)


def _text(value: str) -> str:
    """Text that can be encoded: halves of surrogate pairs, and NUL, are written out."""
    whole = str(value).encode("utf-8", "backslashreplace").decode()
    return whole.replace("\0", "\\x00")


def _numbers(value: Tensor | np.ndarray[Any, Any], where: str) -> Any:
    kind = f"{type(value).__module__.partition('.')[0]} array of shape {list(value.shape)}"
    size = value.numel() if isinstance(value, Tensor) else value.size
    if size > MOST // 100:
        raise NotPlain(f"{where} is a {kind}: give a summary of it")
    found = value.detach().cpu().tolist() if isinstance(value, Tensor) else value.tolist()
    if isinstance(value, np.ndarray) and value.dtype.kind not in "biufU":
        raise NotPlain(f"{where} is a {kind} of {value.dtype}: give numbers")
    return found


def _cure(value: Any) -> str:
    """What to give in the place of something without a plain meaning."""
    if isinstance(value, set | frozenset):
        return "sorted(x)"
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return "dataclasses.asdict(x)"
    if isinstance(value, bytes | bytearray):
        return "x.hex()"
    if hasattr(value, "__float__"):
        return "float(x)"
    return "list(x)" if isinstance(value, Iterable) else "numbers, text, lists or dicts"
