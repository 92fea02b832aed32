"""The other data set that a framework searches on, before its policy serves the cell's own.

A framework with a hyper-parameter ``source: str`` names it there, by the name that ``dataset=``
takes; empty means none. What it then searches on (`frameworks.Problem.source`) is the cell's
architecture with its own checkpoint on the other data, under the cell's protocol.
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from benchmarks.data.load import DatasetConfig, datasets
from benchmarks.models.preprocessing import resolved

FIELD = "source"


def source_of(cell: dict[str, Any], folder: Path) -> dict[str, Any] | None:
    """The same cell on the other data set; None where the framework names none.

    Weights that the configuration gives are the cell's own: the other network is trained, or one
    that comes with the project.

    Args:
        cell: the configuration.
        folder: of the configuration groups (`benchmarks.suite.conf.conf_folder`).

    Raises:
        UnknownName: there is no such data set; the message lists the choices.
        ValueError: it is the cell's own.
    """
    name = cell["framework"].get(FIELD)
    if not isinstance(name, str) or not name:
        return None
    datasets.get(name)
    if name == cell["dataset"]["name"]:
        raise ValueError(
            f"framework.{FIELD} = {name!r}: that is the cell's own data set; name another one, or "
            "none, to search on a part of it"
        )
    model = {**cell["model"], "checkpoint": None, "pretrained": False}
    return resolved({**cell, "model": model, "dataset": json.loads(_entry(folder, name))})


@lru_cache
def _entry(folder: Path, name: str) -> str:
    """The data set's entry of the configuration group, before a model is known."""
    entry = OmegaConf.structured(DatasetConfig(name=name))
    if (file := folder / "dataset" / f"{name}.yaml").exists():
        given: Any = OmegaConf.to_container(OmegaConf.load(file))
        entry = OmegaConf.merge(entry, {k: v for k, v in given.items() if k != "defaults"})
    return json.dumps(OmegaConf.to_container(entry, resolve=True))
