"""What identifies a cell: its configuration, its data, its code, its files and its numerics."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import time
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

import benchmarks
from benchmarks.data.load import CorruptData, MissingData
from benchmarks.fingerprints.named_files import UnreadableFile, as_recorded, by_content
from benchmarks.fingerprints.numerics import numerics
from benchmarks.models.ingredients import codes_of
from benchmarks.models.pretrain import Start
from benchmarks.records.record import digest
from benchmarks.suite.assets import data_identity, entry_text, start_from
from benchmarks.suite.conf import conf_folder
from benchmarks.suite.config import Cell
from benchmarks.suite.objective import DEFAULT
from benchmarks.suite.options.source import source_of
from frameworks import kernels_in_force, registry, rounding

_NOT_IDENTITY = {"dataset": ("root", "workers", "memory", "download")}
_LATER: dict[str, dict[str, Any]] = {
    "protocol": {"objective": DEFAULT, "rounding": "nearest"},
    "dataset": {"classes": None},
    "hardware": {"weights": "per_channel"},
}
"""Keys that came later, which have no part in a cell while they stand for what was done before."""


class BadCell(ValueError):
    """A cell cannot be computed as configured; the message names the field and the choices."""


class Changed(RuntimeError):
    """What a cell is made of is not what it was when its key was taken."""


def identity_of(cell: Cell, threads: int | None = None) -> dict[str, Any]:
    """The ingredients of a cell beside its configuration, in readable form.

    ``data``, ``code`` (of framework, model, dataset, hardware and quantizer), ``files`` (digests of
    those that entries name), ``checkpoint`` (where the float network comes from, and of a committed
    one the digest of its weights, whatever machine made them) and ``numerics``; of frameworks that
    search on another data set first, and of no other, ``source`` (its data and checkpoint); of
    those whose final weights are not the nearest, and of no other, the revision of ``rounding``.

    Args:
        cell: the configuration.
        threads: torch threads of the process that computes it; None for those in force here.

    Raises:
        BadCell: ``model.checkpoint`` cannot be read.
        UnknownName: nothing is registered under a name; the message lists the choices.
        ValueError: where the float network comes from is not clear; see
            `benchmarks.models.pretrain.start_of`.
    """
    found: dict[str, Any] = {
        "data": _data(cell),
        "code": codes_of(cell),
        "files": files_of(cell),
        "checkpoint": _start(cell),
        "numerics": numerics(threads),
    }
    if _rounds(cell):
        found["rounding"] = rounding.REVISION
    if (source := source_of(cell, conf_folder())) is not None:
        found["source"] = {
            "dataset": source["dataset"]["name"],
            "code": codes_of(source)["dataset"],
            "data": _data(source),
            "checkpoint": _start(source),
        }
    return found


def _rounds(cell: Cell) -> bool:
    """Whether the final weights may be others than the nearest."""
    way = registry.get(cell["framework"]["name"]).rounding or cell["protocol"].get("rounding")
    return way not in (None, rounding.NEAREST)


def _start(cell: Cell) -> dict[str, str]:
    """Where the float network comes from; of data that are not there, nothing is committed."""
    try:
        return start_from(entry_text(cell["model"]), entry_text(cell["dataset"])).facts()
    except (MissingData, CorruptData):
        return Start("trained here").facts()


def _data(cell: Cell) -> dict[str, Any]:
    """What the data are; of those that are not there or damaged, why.

    A cell has a key all the same, under which it fails by name: such a record is never reused.
    """
    try:
        return data_identity(entry_text(cell["dataset"]))
    except (MissingData, CorruptData) as fault:
        return {"fingerprint": None, "fault": str(fault)}


def key_of(cell: Cell, threads: int | None = None) -> str:
    """The key of a cell's record: a digest of its configuration and its `identity_of`.

    Where files lie does not count, and how many processes read them; what they hold does.
    """
    return key_from(cell, identity_of(cell, threads))


def key_from(cell: Cell, identity: dict[str, Any]) -> str:
    """The key of a cell of a known identity."""
    return digest({"cell": _plain(cell), "identity": identity})


def recorded_key(cell: Cell, identity: dict[str, Any]) -> str:
    """The key of a record's cell, by what its identity says of files, wherever these lie now."""
    files = {str(key): str(value) for key, value in (identity.get("files") or {}).items()}
    return digest({"cell": _plain(cell, files), "identity": identity})


def keyed(cells: Iterable[Cell], threads: int) -> dict[str, Cell]:
    """Cells by their keys; what several share is looked at once.

    Raises:
        ValueError, FileNotFoundError: as `identity_of`.
    """
    known: dict[str, dict[str, Any]] = {}
    found: dict[str, Cell] = {}
    for cell in cells:
        shared = entry_text({k: v for k, v in cell.items() if k not in ("budget", "seed")})
        if shared not in known:
            known[shared] = identity_of(cell, threads)
        found[key_from(cell, known[shared])] = cell
    return found


def scores_key(cell: Cell, identity: dict[str, Any], checkpoint: str) -> str:
    """The key of a scoring pass, which all budgets share.

    Args:
        cell: the configuration.
        identity: its `identity_of`.
        checkpoint: the fingerprint of the float network that is scored.
    """
    plain = {k: v for k, v in _plain(cell).items() if k != "budget"}
    return digest({"cell": plain, "identity": identity, "checkpoint": checkpoint})


def verify(cell: Cell, identity: dict[str, Any], key: str) -> None:
    """Refuse to compute a cell under a key that was taken of other ingredients.

    Raises:
        Changed: data, code or files have changed since.
    """
    if key_from(cell, identity) != key:
        raise Changed(
            "the cell's data, code or files have changed since the run began (or threads and "
            "kernels differ between processes): run the same command again"
        )


def _plain(cell: Cell, files: Mapping[str, str] | None = None) -> dict[str, Any]:
    """A cell without what cannot change its outcome, files by what they hold.

    Their digests are those in ``files``; without, they are read.
    """
    plain = {}
    for axis, entry in cell.items():
        skipped = _NOT_IDENTITY.get(axis, ())
        kept = {k: v for k, v in entry.items() if k not in skipped} if skipped else entry
        if axis == "budget":  # one limit, as most have; those that were asked for before this key
            kept = {k: v for k, v in kept.items() if k != "metrics" or v is not None}
        if axis in _LATER:
            later = _LATER[axis]
            kept = {k: v for k, v in kept.items() if not (k in later and later[k] == v)}
        known = _by_content(kept, axis, {}) if files is None else as_recorded(kept, axis, files)
        plain[axis] = _whole(known)
    return plain


def files_of(cell: Cell) -> dict[str, str]:
    """The digests of the files that entries name (those of the data set are left out).

    Raises:
        BadCell: a file is there and cannot be read, or ``model.checkpoint`` is not there.
    """
    found: dict[str, str] = {}
    for axis, entry in cell.items():
        if axis != "dataset":
            _by_content(entry, axis, found)
    return found


def _by_content(entry: Any, axis: str, found: dict[str, str]) -> Any:
    try:
        return by_content(entry, axis, found)
    except UnreadableFile as error:
        raise BadCell(str(error)) from error


def _whole(value: Any) -> Any:
    """Plain data with whole numbers as integers: a budget of 4.0 is one of 4."""
    if isinstance(value, dict):
        return {key: _whole(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_whole(inner) for inner in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


@lru_cache
def git_state() -> dict[str, Any] | None:
    """Commit and dirty flag of the checkout that holds the code, if it is one."""
    root = Path(benchmarks.__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None

    def git(*args: str) -> str:
        return subprocess.run(
            ["git", "-C", str(root), *args], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        dirty = git("status", "--porcelain", "--", "frameworks", "benchmarks", "conf")
        return {"sha": git("rev-parse", "HEAD"), "dirty": bool(dirty)}
    except (OSError, subprocess.CalledProcessError):
        return None


def environment() -> dict[str, Any]:
    """The machine and the versions that computed a record."""
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "timm": importlib.metadata.version("timm"),
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "kernels": kernels_in_force(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(x.split(":", 1)[1].strip() for x in lines if x.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()
