"""The parts of a table: computed in any order by several processes, kept, and joined."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.oracle.landscape import Asked, Landscape, length_of_parts
from benchmarks.oracle.oracle_table import OracleTable
from benchmarks.records.store import read_json, write_json
from benchmarks.suite.running.several import computed

Report = Callable[[int, int, float], None]
"""Told how many policies are there, of how many, and the seconds that are left."""


def whole(
    asked: Asked, folder: Path, *, workers: int = 1, threads: int = 1, report: Report
) -> OracleTable:
    """The table of a space; what is in the folder already is not computed again.

    Args:
        asked: what is evaluated.
        folder: for the parts; one for each table.
        workers: processes.
        threads: torch threads of each.
        report: is called after each part.

    Raises:
        ValueError: the folder has parts of another table.
    """
    landscape = Landscape(asked)
    _claim(folder, landscape.key())
    length, size = length_of_parts(landscape.space.choices), landscape.size
    firsts = range(0, size, length)
    todo = [first for first in firsts if not _path(folder, first).exists()]
    started, had = time.perf_counter(), size - length * len(todo)

    def told(done: int) -> None:
        taken = time.perf_counter() - started
        report(had + done * length, size, taken / max(done, 1) * (len(todo) - done))

    tasks = [(asked, folder, first, length) for first in todo]
    each = computed(part, tasks, workers=workers, threads=threads)
    for done, _ in enumerate(each, 1):
        told(done)
    return _joined(landscape, folder, firsts)


_landscapes: dict[str, Landscape] = {}


def part(asked: Asked, folder: Path, first: int, length: int) -> None:
    """Evaluate so many policies from a row on, and keep their scores."""
    name = json.dumps([asked.cell, asked.test_images], sort_keys=True)
    if name not in _landscapes:
        _landscapes.clear()
        _landscapes[name] = Landscape(asked)
    landscape = _landscapes[name]
    rows = [landscape.measured(policy) for policy in landscape.policies(first, first + length)]
    columns = {column: [row[column] for row in rows] for column in rows[0]}
    write_json(_path(folder, first), {"columns": columns})


def _path(folder: Path, first: int) -> Path:
    return folder / f"{first:08d}.json"


def _claim(folder: Path, key: str) -> None:
    """Say in a folder what its parts are of."""
    path = folder / "table.json"
    found = read_json(path)["key"] if path.exists() else None
    if found not in (None, key):
        raise ValueError(
            f"{folder}: has parts of another table (other data, network, code, images or numerics):"
            " name another folder with --parts, or delete it"
        )
    write_json(path, {"key": key})


def _joined(landscape: Landscape, folder: Path, firsts: Sequence[int]) -> OracleTable:
    parts: list[dict[str, Any]] = [read_json(_path(folder, first))["columns"] for first in firsts]
    columns = {name: np.array([x for one in parts for x in one[name]]) for name in parts[0]}
    columns = {name: _small(name, values) for name, values in columns.items()}
    space = landscape.space
    lowest = space.lowest()
    return OracleTable(
        space.choices,
        {name: (_int(lowest[name].weight), lowest[name].act) for name in space.names},
        {**columns, **landscape.costs()},
        landscape.facts(),
    )


def _int(bits: Any) -> int:
    assert isinstance(bits, int)
    return bits


def _small(name: str, values: np.ndarray) -> np.ndarray:
    """Losses and seconds need no more than single precision in a file."""
    return values.astype(np.float32) if name.endswith(("loss", "seconds")) else values
