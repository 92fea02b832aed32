"""Files that entries of a configuration name: what they hold counts, and not where they lie."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from frameworks import file_digest

_NAMES = ("name", "quantizer", "metric")
"""Keys whose text is never a file's name."""
_FILES = ("path", "file", "checkpoint", "policy")
"""Ends of keys whose text is one's name, however short, wherever there is such a file."""


_CODE = re.compile(r"(?P<path>.+\.py):(?P<function>[^:]+)")


def split_code(name: str) -> tuple[str, str]:
    """``PATH.py:FUNCTION`` in two.

    Raises:
        ValueError: it is not of this form.
    """
    found = _CODE.fullmatch(name)
    if found is None:
        raise ValueError(f"{name!r} is not of the form PATH.py:FUNCTION")
    return found["path"], found["function"]


def names_code(name: str) -> bool:
    """Whether a model's name is a function in a file."""
    return _CODE.fullmatch(name) is not None


class UnreadableFile(ValueError):
    """A file that an entry names cannot be read; the message names the entry."""


def by_content(entry: Any, key: str, found: dict[str, str]) -> Any:
    """An entry with the digests of files in the place of their names.

    Args:
        entry: plain data.
        key: where it stands in its cell, such as ``model.options``.
        found: is filled with the digests, by where their files are named.

    Raises:
        UnreadableFile: a file is there and cannot be read, or ``model.checkpoint`` is not there.
    """
    if isinstance(entry, dict):
        return {name: by_content(value, f"{key}.{name}", found) for name, value in entry.items()}
    if isinstance(entry, list):
        return [by_content(value, f"{key}[{i}]", found) for i, value in enumerate(entry)]
    if not isinstance(entry, str):
        return entry
    if key == "model.name" and names_code(entry):
        path, function = split_code(entry)
        return f"{by_content(path, 'model.file', found)}:{function}"
    if not _names_a_file(entry, key):
        return entry
    try:
        found[key] = file_digest(Path(entry).expanduser())
    except OSError as error:
        raise UnreadableFile(f"{key}: {entry} cannot be read ({error})") from error
    return f"content {found[key]}"


def as_recorded(entry: Any, key: str, files: Mapping[str, str]) -> Any:
    """As `by_content`, with digests that are known, so that no file is looked at."""
    if isinstance(entry, dict):
        return {name: as_recorded(value, f"{key}.{name}", files) for name, value in entry.items()}
    if isinstance(entry, list):
        return [as_recorded(value, f"{key}[{i}]", files) for i, value in enumerate(entry)]
    if not isinstance(entry, str):
        return entry
    if key == "model.name" and names_code(entry) and "model.file" in files:
        return f"content {files['model.file']}:{split_code(entry)[1]}"
    return f"content {files[key]}" if key in files else entry


def _names_a_file(text: str, key: str) -> bool:
    if key in ("model.checkpoint", "model.file"):
        return bool(text)
    last = key.rpartition(".")[2].partition("[")[0]
    # Elsewhere a word such as 'adam' is no path, whatever lies in the working folder.
    is_path = os.sep in text or "." in text or last.endswith(_FILES)
    return is_path and last not in _NAMES and Path(text).expanduser().is_file()
