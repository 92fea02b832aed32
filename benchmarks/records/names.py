"""Names for configurations: what each is called, and what tells those of one name apart."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from benchmarks.records.record import digest

_ENCODER = json.JSONEncoder(sort_keys=True)
_WHOLE = re.compile(r"(?<=[\s\[])(-?\d+)\.0(?=[,}\]]|$)")
_MOST_SETTINGS = 3
"""A label names at most so many settings; the rest is a count and a digest."""
_UNASKED = frozenset({"evaluations", "images"})
"""Settings of how long a baseline searches, of which 0 means that another one says so."""


def plain(value: Any) -> str:
    """Canonical text of plain data; 25.0 is the same as 25."""
    text = _ENCODER.encode(value)
    return _WHOLE.sub(r"\1", text) if ".0" in text else text


def _flat(entry: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in entry.items():
        if isinstance(value, Mapping) and value:
            found.update(_flat(value, f"{prefix}{key}."))
        else:
            found[f"{prefix}{key}"] = value
    return found


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 24 else f"{text[:21]}..."


def _said(flat: Mapping[str, Any], key: str) -> bool:
    """Whether a label names a setting: nothing stands for what was not asked for."""
    return key in flat and not (key in _UNASKED and plain(flat[key]) == "0")


def name_of(entry: Mapping[str, Any]) -> str:
    """What a configuration is called: by its own ``label``, where it has one."""
    return str(entry.get("label") or entry.get("name", "?"))


def labels(entries: Iterable[str]) -> dict[str, str]:
    """A name for each configuration (canonical text): `name_of` it, and where several
    configurations share that, the settings in which they differ.
    """
    named: dict[str, dict[str, dict[str, Any]]] = defaultdict(dict)
    for text in entries:
        entry = json.loads(text)
        named[name_of(entry)][text] = _flat(entry)
    found: dict[str, str] = {}
    for name, configs in named.items():
        keys = sorted({key for flat in configs.values() for key in flat})
        differing = [k for k in keys if len({plain(f.get(k)) for f in configs.values()}) > 1]
        for text, flat in configs.items():
            settings = [f"{k}={_short(flat[k])}" for k in differing if _said(flat, k)]
            if len(settings) > _MOST_SETTINGS:
                rest = len(settings) - _MOST_SETTINGS + 1
                settings[_MOST_SETTINGS - 1 :] = [f"{rest} more: {digest(text)[:4]}"]
            found[text] = f"{name} ({', '.join(settings)})" if settings else name
    return found
