"""Cells: records with the canonical texts of their configurations, and what to call these."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import Any

from benchmarks.records.names import labels, name_of, plain
from benchmarks.records.record import Record

AXES = ("model", "dataset", "hardware", "protocol", "budget")
"""What the cells of a group share; they differ in framework and seed."""
_NO_INFLUENCE = {"dataset": ("root", "workers", "memory", "download")}
PREPARED = ("image_size", "mean", "std", "interpolation", "crop_pct", "crop_mode")
"""Keys of how images that stay on disk are prepared; on others they have no influence."""
RESIDENT = frozenset({"digits", "fashion_mnist", "cifar10", "cifar100"})
"""As in `benchmarks.models.preprocessing`, which needs torch, as a table does not."""
LATER: dict[str, dict[str, Any]] = {
    "model": {"retrain": False},
    "protocol": {
        "float_share": 0.05,
        "bn": "batches",
        "bias_correction": False,
        "objective": "accuracy",
        "rounding": "nearest",
    },
    "dataset": {**dict.fromkeys(PREPARED[1:]), "classes": None},
    "hardware": {"weights": "per_channel"},
    "budget": {"metrics": None},
}
"""Keys that earlier records lack, with the defaults that stand for what was done then."""

_ASKED = ("like", "ratio", "limit")


def _entry(cell: Mapping[str, Any], axis: str) -> dict[str, Any]:
    """An axis of a cell, whole, without what cannot change its outcome."""
    value = cell.get(axis)
    entry = dict(value) if isinstance(value, Mapping) else {"name": str(value)}
    for key in _NO_INFLUENCE.get(axis, ()):
        entry.pop(key, None)
    entry = {**LATER.get(axis, {}), **entry}
    if axis == "dataset" and entry.get("name") in RESIDENT:
        entry = {key: value for key, value in entry.items() if key not in PREPARED}
    return entry


@dataclass(frozen=True)
class Cell:
    """A record with the canonical text of each part of its configuration."""

    record: Record
    framework: str
    axes: tuple[str, ...]
    seed: int

    @classmethod
    def of(cls, record: Record) -> Cell:
        """Read a record's configuration."""
        axes = tuple(plain(_entry(record.cell, axis)) for axis in AXES)
        seed = int(record.cell.get("seed", 0))
        return cls(record, plain(_entry(record.cell, "framework")), axes, seed)

    @property
    def basis(self) -> str:
        """The version, revision and numerics that the record was made with, as text."""
        parts = [self.record.identity.get(part) for part in ("code", "numerics")]
        code, numerics = (part if isinstance(part, Mapping) else {} for part in parts)
        framework = code.get("framework")
        framework = framework if isinstance(framework, Mapping) else {}
        library = {k: framework[k] for k in ("juxtabit", "revision") if k in framework}
        return ", ".join(f"{k} {v}" for k, v in {**library, **numerics}.items())

    @property
    def pair(self) -> tuple[int, str]:
        """What two records must share to be compared: seed, and what they were made with."""
        return self.seed, self.basis


def joined(cells: Sequence[Cell]) -> list[Cell]:
    """Cells of policies that are given under one label, as of one framework.

    They are so where no seed comes twice in a group: then each seed has a policy of its own.
    """
    pairs = [(cell, _labelled(cell)) for cell in cells]
    counts = Counter((one, cell.axes, cell.seed) for cell, one in pairs)
    twice = {(one, axes) for (one, axes, _), count in counts.items() if count > 1}
    return [
        cell if one is None or (one, cell.axes) in twice else replace(cell, framework=one)
        for cell, one in pairs
    ]


def _labelled(cell: Cell) -> str | None:
    """The framework's text without the policy of its label; None where it has none."""
    entry = json.loads(cell.framework)
    policy = entry.pop("policy", None)
    return plain(entry) if policy is not None and entry.get("label") else None


def dataset_labels(cells: Iterable[Cell]) -> dict[str, str]:
    """A name for each dataset configuration; data of one name by their folder and content, too."""
    shown: dict[str, str] = {}
    for cell in cells:
        entry = json.loads(cell.axes[1])
        given = cell.record.cell.get("dataset")
        root = given.get("root") if isinstance(given, Mapping) else None
        if "content" in entry and root:
            entry["root"] = PurePath(str(root)).name
        shown[cell.axes[1]] = plain(entry)
    found = labels(shown.values())
    return {text: found[named] for text, named in shown.items()}


def framework_labels(cells: Iterable[Cell]) -> dict[str, str]:
    """A name for each framework configuration.

    Configurations of one framework are told apart only if they meet in a group, where both have
    the same rivals; a suite may well give a method fewer episodes on a larger model.
    """
    groups: dict[tuple[str, ...], set[str]] = defaultdict(set)
    name: dict[str, str] = {}
    for cell in cells:
        groups[cell.axes].add(cell.framework)
        if cell.framework not in name:
            name[cell.framework] = name_of(json.loads(cell.framework))
    meeting = {
        name[text]
        for texts in groups.values()
        for text in texts
        if sum(name[other] == name[text] for other in texts) > 1
    }
    told_apart = labels(text for text in name if name[text] in meeting)
    return {text: told_apart.get(text, name[text]) for text in name}


def budget_label(entry: Mapping[str, Any]) -> str:
    """Short text of a cell's budget, such as ``like=4``; of several metrics, of each."""
    several = entry.get("metrics")
    if isinstance(several, Mapping):
        parts = [
            budget_label({**part, "metric": metric})
            for metric, part in several.items()
            if isinstance(part, Mapping)
        ]
        return " and ".join(parts)
    given = {k: v for k, v in entry.items() if v is not None and k in _ASKED}
    kind, value = next(iter(given.items()), ("like", 4.0))
    text = f"{kind}={value:g}" if isinstance(value, int | float) else f"{kind}={value}"
    return f"{text} {entry['metric']}" if entry.get("metric") else text
