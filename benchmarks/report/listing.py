"""The list of frameworks: read from the registry once, then kept while nothing changes.

Reading the registry imports every framework, and torch with them, which takes seconds. The list is
kept in the cache folder under a fingerprint of all that could change it: the files of the built-in
frameworks, the entry points of plugins with their versions and modules, and the interpreter. This
module imports neither torch nor any framework unless the list has to be read anew.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import sys
import warnings
from collections.abc import Iterator
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import benchmarks
from benchmarks.records.cache import cache_folder, trusted_file
from benchmarks.records.record import digest
from benchmarks.records.store import read_json, write_json

GROUP = "juxtabit.frameworks"

Listing = dict[str, list[dict[str, Any]]]
"""``frameworks``: what can be used, with cards; ``unavailable``: what cannot, with the error."""


def listing() -> Listing:
    """The list, from the cache where it is still true."""
    path = cache_folder() / "listing" / f"{_fingerprint()}.json"
    kept = _kept(path)
    if kept is not None:
        return kept
    made = read()
    # What was not available may be a moment later, with nothing changed that a fingerprint sees.
    if not made["unavailable"]:
        plain = json.loads(json.dumps(made, default=str))
        try:
            write_json(path, {"listing": plain, "digest": digest(plain)}, nonfinite=True)
        except OSError as error:
            warnings.warn(f"the list is not kept: {error}", stacklevel=2)
    return made


def _kept(path: Path) -> Listing | None:
    """The list in a file; None if that is not what was written."""
    if not trusted_file(path):
        return None
    try:
        kept = read_json(path)
        found: Listing = kept["listing"]
        return found if kept["digest"] == digest(found) else None
    except (ValueError, TypeError, KeyError):
        return None


def read() -> Listing:
    """The list as the registry has it now."""
    from frameworks import registry

    entries: list[dict[str, Any]] = []
    for name in registry.names():
        cls, origin = registry.get(name), registry.origin(name)
        entries.append(
            {
                "name": name,
                "distribution": origin.distribution,
                "version": origin.version,
                "steered_by": cls.strength,
                "hyperparameters": _defaults(cls),
                "card": cls.card.to_json(),
            }
        )
    missing = [
        {"name": u.name, "distribution": u.origin.distribution, "error": u.error, "fault": u.fault}
        for u in registry.unavailable()
    ]
    return {"frameworks": entries, "unavailable": missing}


def _defaults(cls: type) -> dict[str, Any]:
    return {
        f.name: f.default if f.default is not MISSING else repr(f.default_factory)
        for f in fields(cls)
    }


def _fingerprint() -> str:
    digest = hashlib.sha256(f"{benchmarks.__version__} {sys.version} {sys.prefix}".encode())
    for path in sorted({*_package_files("frameworks"), *_plugin_files()}):
        facts = path.stat()
        digest.update(f"{path} {facts.st_mtime_ns} {facts.st_size}\n".encode())
    for point in importlib.metadata.entry_points(group=GROUP):
        dist = (point.dist.name, point.dist.version) if point.dist else ()
        digest.update(f"{point.name} {point.value} {dist}\n".encode())
    return digest.hexdigest()[:20]


def _plugin_files() -> Iterator[Path]:
    for point in importlib.metadata.entry_points(group=GROUP):
        yield from _package_files(point.module.partition(".")[0])


def _package_files(name: str) -> Iterator[Path]:
    """The Python files of a top-level package or module, found without importing it."""
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return
    if spec is None:
        return
    for folder in spec.submodule_search_locations or ():
        # An editor's lock (.#name.py) is a link to nothing.
        yield from (path for path in Path(folder).rglob("*.py") if path.is_file())
    if spec.origin and Path(spec.origin).is_file():
        yield Path(spec.origin)
