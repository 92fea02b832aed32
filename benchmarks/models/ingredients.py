"""The ingredients of a cell's identity: the data, the code and the files that make its numbers.

One notion for all: a cell's key, its record, a float checkpoint's file and shared scores are made
of these and of `benchmarks.fingerprints.numerics`, and differ where one of them does.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.data.load import DatasetConfig, Splits, datasets
from benchmarks.fingerprints.named_files import by_content, names_code, split_code
from benchmarks.fingerprints.numerics import library, numerics
from benchmarks.fingerprints.sources import code_of_entry, digest_of, files_beside
from benchmarks.models.build import ModelConfig, models, refuse_broken
from benchmarks.models.small import OWN
from frameworks import (
    DatasetSplit,
    Recipe,
    Registry,
    file_digest,
    files_under,
    identify_files,
    registry,
    schemes,
    targets,
)

_READERS = ("timm", "torchvision", "pillow")
"""What turns files into pixels."""


def data_of(splits: Splits, config: DatasetConfig) -> dict[str, Any]:
    """What a data set holds: ``fingerprint`` of its three splits, and ``known by`` what.

    Raises:
        OSError: a file cannot be read.
    """
    parts = [part.known() for part in (splits.train, splits.valid, splits.test)]
    basis = sorted({part.basis for part in parts})
    found: dict[str, Any] = {
        "fingerprint": "-".join(part.digest for part in parts),
        "known by": ", ".join(basis),
        **_readers(splits),
    }
    if any(text.endswith("samples") for text in basis) and config.root:
        found["files"] = identify_files(files_under(Path(config.root).expanduser())).digest
    return found


def _readers(splits: Splits) -> dict[str, Any]:
    if not isinstance(splits.train, DatasetSplit):
        return {}
    return {"read with": {name: importlib.metadata.version(name) for name in _READERS}}


def framework_code(name: str) -> dict[str, Any]:
    """The code of a framework: the project's version and revision, and a plugin's own.

    Raises:
        UnknownName: there is no such framework.
    """
    return {**library(), **_code(registry, name)}


def model_code(name: str) -> dict[str, Any]:
    """The code of a network: a plugin's, timm's version, or the project's own.

    Empty for a name that nobody knows, which `benchmarks.models.build.create` refuses.

    Raises:
        UnknownName: a plugin's that cannot be imported.
    """
    if names_code(name):
        path = Path(split_code(name)[0]).expanduser()
        found = {"file": file_digest(path)}
        # Of a file that stands alone nothing more is said, as before these counted.
        return {**found, "beside": digest_of(files)} if (files := files_beside(path)) else found
    if name in models.names():
        return _code(models, name)
    if name in OWN:
        return code_of_entry(OWN[name])
    refuse_broken(name)
    import timm

    return code_of_entry(timm.model_entrypoint(name)) if timm.is_model(name) else {}


def codes_of(cell: Mapping[str, Any]) -> dict[str, Any]:
    """The code of all that a cell names.

    Raises:
        UnknownName: nothing is registered under a name; the message lists the choices.
    """
    framework, protocol = cell["framework"]["name"], cell["protocol"]
    paper = protocol["name"] == "paper"
    quantizer = registry.get(framework).card.quantizer if paper else protocol["quantizer"]
    return {
        "framework": framework_code(framework),
        "model": model_code(cell["model"]["name"]),
        "dataset": _code(datasets, cell["dataset"]["name"]),
        "hardware": _code(targets, cell["hardware"]["name"]),
        "quantizer": _code(schemes, quantizer),
    }


def _code(entries: Registry[Any], name: str) -> dict[str, Any]:
    return code_of_entry(entries.get(name), entries.origin(name))


def checkpoint_facts(
    model: ModelConfig, dataset: DatasetConfig, splits: Splits, recipe: Recipe
) -> dict[str, Any]:
    """What the weights of a pretrained float network come from."""
    return {
        "model": by_content(model.name, "model.name", {}),
        "options": by_content(dict(model.options), "model.options", {}),
        "code": [library(), model_code(model.name), _code(datasets, dataset.name)],
        "data": [splits.train.fingerprint(), _readers(splits)],
        "recipe": asdict(recipe),
        "numerics": numerics(),
    }
