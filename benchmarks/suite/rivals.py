"""The baselines that stand beside a single cell, with what its framework gets.

Uniform, random and greedy always; a kernel-wise method also meets ``random_kernel``, and one that
trains each candidate ``random_retrained``, with the same training. They evaluate as many distinct
policies as the framework says that it asks for. Of one that trains in place of that (a super net,
gates) the cell is computed first, and random and greedy get the images that its record has spent.
Scoring methods pass over the data once for every budget, so there the defaults stand: as many
images would be a policy or two.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

from benchmarks.records.record import Record
from benchmarks.suite.config import Cell
from frameworks import Framework, ScoringFramework, registry

BASELINES = ("uniform", "random", "greedy")
SHARED = ("retrain_epochs", "retrain_images", "retrain_lr", "prune")
"""Hyper-parameters that a baseline takes over from the framework, where both have them."""
Make = Callable[[str], dict[str, Any]]
"""The default configuration of a framework of this name."""


def waits(cell: Cell) -> bool:
    """Whether the baselines can be made only when the cell's record is there."""
    found = _framework(cell)
    if found is None or isinstance(found, ScoringFramework) or found.card.category == "baseline":
        return False
    return found.evaluations_asked is None


def baselines_of(cell: Cell, make: Make, record: Record | None = None) -> list[Cell]:
    """The cells of the baselines at the same budget.

    Args:
        cell: the framework's cell.
        make: gives a baseline's default configuration.
        record: the framework's, if the baselines get its images.
    """
    names = [name for name in _names(cell) if name != cell["framework"]["name"]]
    return [{**cell, "framework": _like(cell, make(name), record)} for name in names]


def _framework(cell: Cell) -> Framework | None:
    """The framework of a cell; None if it cannot be made, which the run says with its reason."""
    entry = dict(cell["framework"])
    try:
        found: Framework = registry.get(entry.pop("name"))(**entry)
        found.evaluations_asked  # noqa: B018 (a plugin's own code, which may raise)
    except Exception:
        return None
    return found


def _names(cell: Cell) -> list[str]:
    found = _framework(cell)
    if found is None or found.card.category == "baseline":
        return list(BASELINES)
    names = list(BASELINES)
    trains = cell["protocol"]["name"] != "ptq" and cell["framework"].get("retrain_epochs")
    if trains and found.card.granularity != "kernel":
        names.append("random_retrained")
    if found.card.granularity == "kernel":
        names.append("random_kernel")
    return names


def _like(cell: Cell, plain: Mapping[str, Any], record: Record | None) -> dict[str, Any]:
    """A baseline's configuration with what the framework gets."""
    found = _framework(cell)
    known = {f.name for f in fields(registry.get(plain["name"]))}  # type: ignore[arg-type]
    given = {key: cell["framework"][key] for key in SHARED if key in cell["framework"]}
    if found is not None and found.evaluations_asked is not None:
        given["evaluations"] = found.evaluations_asked
    elif record is not None and (images := _images(record)):
        given["images"] = images
    return {**plain, **{key: value for key, value in given.items() if key in known}}


def _images(record: Record) -> int:
    """Images forward and backward that a finished search has run."""
    if record.status != "done":
        return 0
    return sum(int(record.search.get(f"images_{way}") or 0) for way in ("forward", "backward"))
