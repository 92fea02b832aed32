"""What a model's file imports from beside it: its own, whatever else bears the same names."""

from __future__ import annotations

import importlib.metadata
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from frameworks import Registry, registry, schemes, targets

GROUPS = ("frameworks", "hardware", "quantizers", "datasets", "models")
"""Of entry points; see `frameworks.Registry`."""


@contextmanager
def in_place(
    folder: Path, beside: Mapping[Path, str], own: dict[str, ModuleType]
) -> Iterator[None]:
    """Within the context, imports look into a file's folder first; then all is as it was.

    Args:
        folder: the file's, resolved.
        beside: what it imports from there; see `benchmarks.fingerprints.sources.files_beside`.
        own: the modules that it has imported from there before; those of this time are added.
    """
    tops = {Path(name).parts[0].removesuffix(".py") for name in beside.values()}
    stay = _staying(folder, beside, tops) - set(map(_top, own))
    aside = _loaded(tops - stay)
    for name in aside:
        del sys.modules[name]
    sys.modules.update(own)
    writes, place = sys.dont_write_bytecode, str(folder)
    sys.path.insert(0, place)  # as for a script that imports its neighbours
    # Python takes kept bytecode for that of a file which was edited within the same second.
    sys.dont_write_bytecode = True
    try:
        yield
    finally:
        sys.dont_write_bytecode = writes
        if place in sys.path:
            sys.path.remove(place)
        own |= _loaded(tops - stay)
        for name in own:
            sys.modules.pop(name, None)
        sys.modules.update(aside)


def _top(name: str) -> str:
    return name.partition(".")[0]


def _loaded(tops: Iterable[str]) -> dict[str, ModuleType]:
    return {name: module for name, module in sys.modules.items() if _top(name) in tops}


def _staying(folder: Path, beside: Mapping[Path, str], tops: Iterable[str]) -> set[str]:
    """The packages that are there and are the very files that lie beside.

    All, if no file has changed since; else those of plugins, which would register a second time.
    """
    if not _loaded(tops):
        return set()
    plugins = _plugins()
    loaded = _loaded(tops)  # with plugins that were not there before
    strangers = {_top(name) for name, module in loaded.items() if not _lies(name, module, folder)}
    same = {_top(name) for name in loaded} - strangers
    return same if not strangers and _as_started(beside) else same & plugins


def _lies(name: str, module: Any, folder: Path) -> bool:
    """Whether a loaded module is that of its name below a folder."""
    above = folder.joinpath(*name.split(".")).parent.resolve()
    file = getattr(module, "__file__", None)
    if file is None:
        return any(Path(at).resolve().parent == above for at in getattr(module, "__path__", ()))
    path = Path(file).resolve()
    return above == (path.parent.parent if path.name.startswith("__init__.") else path.parent)


def _plugins() -> set[str]:
    """The packages that entry points name, or that have registered something here."""
    known: tuple[Registry[Any], ...] = (registry, targets, schemes)
    entries = (entry.get(name) for entry in known for name in entry.names())
    points = (importlib.metadata.entry_points(group=f"juxtabit.{group}") for group in GROUPS)
    named = {_top(point.module) for group in points for point in group}
    return named | {_top(entry.__module__) for entry in entries}


def _as_started(files: Iterable[Path]) -> bool:
    """Whether files are as they were before this process could import them."""
    since = _started()
    stats = (path.stat() for path in files)
    return all(max(stat.st_mtime, stat.st_ctime) < since for stat in stats)


def _started() -> float:
    """When this process began; 0 where the system does not say, so that all counts as changed."""
    try:
        words = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - int(words[19]) / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError, ValueError, IndexError):
        return 0.0
    return time.time() - age
