"""The code behind an entry of a registry: a plugin's files with what they import, or a library.

Of a plugin the whole package counts, and the whole distribution that it was installed from: Python
files without comments and docstrings, other files by content. What it imports counts as well:
modules that lie there as files, installed distributions by name and version; and data that a file
finds by ``__file__``.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import re
import sys
from collections.abc import Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

from benchmarks.fingerprints.imports import (
    beside,
    code_digest,
    imports,
    installed,
    place,
    place_below,
)
from frameworks import Known, Origin, files_under, folder_state, identify_files

OWN = ("frameworks", "benchmarks")
LIBRARIES = ("timm", "torchvision", "torch")
_ELSEWHERE = {*OWN, "torch", *sys.stdlib_module_names}
"""What a plugin imports and every cell has: see `benchmarks.fingerprints.numerics`."""
_LOGS = ("outputs", "multirun", "wandb")
"""Folders that Hydra and trackers write."""
_RECORD = re.compile(r"(.+)/records/[0-9a-f]{20}\.json")

_sources: dict[tuple[Path | None, str], tuple[list[Path], str, dict[str, Any]]] = {}


def code_of_entry(entry: object, origin: Origin | None = None) -> dict[str, Any]:
    """What identifies the code of a class or factory.

    Args:
        entry: a framework, target, quantizer, loader or factory.
        origin: the distribution that registered it, where that is known.
    """
    module = _module_of(entry)
    top = module.partition(".")[0]
    if origin is not None and origin.distribution != "juxtabit":
        found = {"distribution": origin.distribution, "version": origin.version}
        return found if top in OWN else {**found, **_source(module, origin.distribution)}
    if top in OWN:
        return {"distribution": "juxtabit"}
    if top in LIBRARIES:
        return {"distribution": top, "version": importlib.metadata.version(top)}
    # Not by its name: a script is __main__ here, and __mp_main__ in a worker.
    return {"distribution": "files", **_source(module, "")}


def _module_of(entry: object) -> str:
    while isinstance(entry, partial):
        entry = entry.func
    return str(getattr(entry, "__module__", None) or type(entry).__module__)


def _source(module: str, distribution: str) -> dict[str, Any]:
    """The facts of a plugin's code, from memory while none of its files changes."""
    known = _start(module), distribution
    roots, state, facts = _sources.get(known, ([], "", {}))
    if not roots or state != _state(roots):
        found = _Source(module, distribution)
        facts = found.facts()
        _sources[known] = found.roots, _state(found.roots), facts
    return facts


def _state(roots: list[Path]) -> str:
    return " ".join(folder_state(root) for root in roots)


def files_beside(script: Path) -> dict[Path, str]:
    """What a script imports from its own folder, where Python looks first: files with their names.

    Whole packages count, and what all of these import from that folder or from their own, or read
    from it by ``__file__``.
    """
    script = script.resolve()
    found: dict[Path, str] = {}
    waiting = [script]
    while waiting:
        path = waiting.pop()
        for name in imports(path):
            if name.startswith("."):
                root = place_below(path.parent, name)
            elif name.partition(".")[0] in _ELSEWHERE:
                continue
            else:
                root = place_below(script.parent, f".{name}")
            if root is None:
                continue
            files = _package_files(root).values() if root.is_dir() else (root,)
            new = [file for file in files if file not in found and file != script]
            found |= {file: os.path.relpath(file, script.parent) for file in new}
            waiting += [file for file in new if file.suffix == ".py"]
        for name in _data_of(path):
            found.setdefault(path.parent / name, os.path.relpath(path.parent / name, script.parent))
    return found


def digest_of(files: Mapping[Path, str]) -> str:
    """A digest of files by the names that count: Python files by their code, others by content."""
    digest = hashlib.sha256()
    data = {name: path for path, name in files.items() if path.suffix != ".py"}
    for path, name in sorted(files.items(), key=lambda item: item[1]):
        if path.suffix == ".py":
            digest.update(f"{name}\0{code_digest(path)}\n".encode())
    known = identify_files(data) if data else Known("", "")
    digest.update(known.digest.encode())
    return digest.hexdigest()[:16]


@cache
def _unreadable() -> str:
    """Code that lies in no file, as a notebook's, is new in every process."""
    return f"unreadable {os.urandom(8).hex()}"


class _Source:
    """The files and libraries that a module's code is made of."""

    def __init__(self, module: str, distribution: str) -> None:
        self.roots: list[Path] = []
        self._files: dict[Path, str] = {}
        self._libraries: dict[str, str] = {}
        self._seen: set[str] = set()
        for root in _distributed(distribution) if distribution else ():
            self._take(root, root.name)
        start = _start(module)
        if start is not None:
            # Nor does the name of a single file count.
            self._take(start, start.name if start.is_dir() else "")

    def facts(self) -> dict[str, Any]:
        """A digest of the files; names and versions of the libraries."""
        if not self._files:
            return {"source": _unreadable()}
        return {
            "source": digest_of(self._files),
            "imports": dict(sorted(self._libraries.items())),
        }

    def _take(self, root: Path, name: str) -> None:
        found = _package_files(root) if root.is_dir() else {"": root}
        new = {path: f"{name}/{at}" for at, path in found.items() if path not in self._files}
        if new:
            self.roots.append(root)
            self._files |= new
        for path in new:
            if path.suffix == ".py":
                for imported in imports(path):
                    self._follow(imported, path.parent)
                for data in _data_of(path):
                    # By whose data it is: two files may have some of one name.
                    self._take(path.parent / data, f"{new[path]}:{data}")

    def _follow(self, name: str, folder: Path) -> None:
        """Take what a file in a folder imports; ``.name`` is from its own package."""
        top = name.partition(".")[0]
        if not top:
            self._take_at(place_below(folder, name))
        elif top not in _ELSEWHERE and name not in self._seen:
            self._seen.add(name)
            libraries = installed(top)
            self._libraries |= libraries
            if not libraries:
                self._take_at(place(name) or place_below(folder, f".{name}"))

    def _take_at(self, root: Path | None) -> None:
        if root is not None:
            self._take(root, root.name)


def _start(module: str) -> Path | None:
    """The folder of the outermost regular package that a loaded module lies in, or its file."""
    parts = module.split(".")
    for count in range(1, len(parts) + 1):
        file = getattr(sys.modules.get(".".join(parts[:count])), "__file__", None)
        if file is not None and Path(file).name.startswith("__init__."):
            return Path(file).parent
    file = getattr(sys.modules.get(module), "__file__", None)
    return Path(file) if file is not None and Path(file).is_file() else None


def _distributed(distribution: str) -> list[Path]:
    """The packages and modules of an installed distribution."""
    try:
        known = importlib.metadata.distribution(distribution)
    except (importlib.metadata.PackageNotFoundError, ValueError):
        return []
    tops = {file.parts[0] for file in known.files or ()}
    kept = (top for top in tops if not top.startswith(("..", "__")) and "-info" not in top)
    found = [Path(str(known.locate_file(top))) for top in sorted(kept) if not top.endswith(".pth")]
    return [path for path in found if path.exists()]


def _package_files(folder: Path) -> dict[str, Path]:
    """The files of a package, without those that running it writes into it."""
    found = files_under(folder)
    results = {match[1] for name in found if (match := _RECORD.fullmatch(name))}
    return {name: path for name, path in found.items() if not _written(name, results)}


def _data_of(path: Path) -> list[str]:
    """What a Python file reads by its own place, without what running it writes."""
    return [name for name in beside(path) if not _written(name, set())]


def _written(name: str, results: set[str]) -> bool:
    path = Path(name)
    if path.suffix == ".py":
        return False
    by_python = path.suffix in (".pyc", ".lock", ".log") or name.endswith("~")
    return by_python or bool(
        set(_LOGS) & set(path.parts) or results & {parent.as_posix() for parent in path.parents}
    )
