"""Float networks that come with the project, so that a suite starts the same on every machine.

Each is a safetensors file in ``results/checkpoints`` (in an installed copy: ``checkpoints`` in this
package), and ``index.json`` beside them says what each was made for: model, data by content,
recipe and seed. Where a cell asks for just that, the file takes the place of training. The cell's
key holds the digest of the weights, which is in the index, and not what they were made with.

``python -m benchmarks.studies.float_networks`` makes them.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from safetensors.torch import load
from torch import nn

from benchmarks.fingerprints.named_files import by_content
from benchmarks.models.build import ModelConfig
from benchmarks.models.ingredients import model_code
from benchmarks.models.weights import fill, fingerprint
from benchmarks.records.schema import (
    Misfit,
    complete,
    listed,
    name,
    number,
    plain,
    shaped,
    text,
    whole,
)
from benchmarks.records.shapes import percent
from benchmarks.records.store import read_json
from frameworks import Recipe

INDEX = "index.json"
MEND = (
    "get it anew ('git checkout results/checkpoints', or install juxtabit again), or train a "
    "network here with 'juxtabit run --retrain'"
)
_open = shaped({}, plain)
_ENTRY = complete(
    {
        "name": name,
        "model": complete({"name": name, "options": _open, "code": name}),
        "dataset": complete({"name": name, "fingerprint": name}),
        "recipe": _open,
        "seed": whole(0, 2**63),
        "accuracy": complete({"test": percent, "valid": percent}),
        "images": complete({"test": whole(1, 2**40), "valid": whole(1, 2**40)}),
        "parameters": whole(1, 2**40),
        "bytes": number(1),
        "sha256": text,
        "fingerprint": name,
        "made_with": _open,
    }
)
_INDEX = complete({"schema": whole(1, 1), "networks": listed(_ENTRY)})


class BadCommitted(ValueError):
    """A committed network or the index is not what it must be; the message names the file."""


@dataclass(frozen=True)
class Entry:
    """A committed float network.

    Attributes:
        name: of its file, without ``.safetensors``.
        model: ``name``, ``options`` and the distribution of its ``code``.
        dataset: ``name`` and ``fingerprint`` of the three splits, which alone counts.
        recipe: how it was trained; see `frameworks.Recipe`.
        seed: of its initialisation and its training.
        accuracy: top-1 in percent on ``test`` and ``valid``.
        images: how many these splits have.
        parameters: numbers in its file, buffers among them.
        bytes: size of its file.
        sha256: of its file.
        fingerprint: of its weights and buffers; see `benchmarks.models.weights.fingerprint`.
        made_with: versions, numerics and processor.
    """

    name: str
    model: Mapping[str, Any]
    dataset: Mapping[str, str]
    recipe: Mapping[str, Any]
    seed: int
    accuracy: Mapping[str, float]
    images: Mapping[str, int]
    parameters: int
    bytes: int
    sha256: str
    fingerprint: str
    made_with: Mapping[str, Any]

    @property
    def file(self) -> Path:
        """Where it is."""
        return folder() / f"{self.name}.safetensors"


def folder() -> Path:
    """The folder of the networks: inside an installed package, or the checkout's results."""
    here = Path(__file__).resolve().parents[1]
    inside = here / "checkpoints"
    return inside if inside.is_dir() else here.parent / "results" / "checkpoints"


def entries() -> tuple[Entry, ...]:
    """What the index lists.

    Raises:
        BadCommitted: the index cannot be read.
    """
    path = folder() / INDEX
    try:
        facts = path.stat()
    except OSError:
        return _missing(path)
    return _entries(path, facts.st_mtime_ns, facts.st_size)


@lru_cache(maxsize=1)
def _missing(path: Path) -> tuple[Entry, ...]:
    warnings.warn(
        f"there is no {path}: float networks are trained here, and differ from those of the "
        "committed records",
        stacklevel=3,
    )
    return ()


@lru_cache(maxsize=2)
def _entries(path: Path, changed: int, size: int) -> tuple[Entry, ...]:
    try:
        found = read_json(path)
        _INDEX(found)
        for entry in found["networks"]:
            Recipe(**entry["recipe"])
    except (Misfit, ValueError, TypeError) as error:
        raise BadCommitted(f"committed float networks: {path}: {error}; {MEND}") from error
    return tuple(Entry(**entry) for entry in found["networks"])


def asked_for(config: ModelConfig, recipe: Recipe, seed: int) -> dict[str, Any]:
    """What an entry must have been made for to serve a model, beside the data."""
    return {
        "model": {
            "name": config.name,
            "options": by_content(dict(config.options), "model.options", {}),
            # A plugin may give a name of ours to a network of its own.
            "code": str(model_code(config.name).get("distribution")),
        },
        "recipe": asdict(recipe),
        "seed": seed,
    }


def find(config: ModelConfig, recipe: Recipe, seed: int, data: Callable[[], str]) -> Entry | None:
    """The committed network of a model, a recipe, a pretraining seed and data; None: there is none.

    Args:
        config: the model.
        recipe: its pretraining.
        seed: of its pretraining.
        data: gives the fingerprint of the three splits; called only where all else agrees.

    Raises:
        BadCommitted: the index cannot be read.
    """
    named = [entry for entry in entries() if entry.model["name"] == config.name]
    wanted = asked_for(config, recipe, seed) if named else {}
    for entry in named:
        made = asdict(Recipe(**entry.recipe))
        have = {"model": dict(entry.model), "recipe": made, "seed": entry.seed}
        if have == wanted and entry.dataset["fingerprint"] == data():
            return entry
    return None


def load_into(model: nn.Module, entry: Entry) -> None:
    """Load a committed network.

    Raises:
        BadCommitted: its file is not there, not what was committed, or does not fit the model.
    """
    where = f"committed float network {entry.file}"
    try:
        content = entry.file.read_bytes()
    except OSError as error:
        raise BadCommitted(f"{where}: cannot be read ({error.strerror}); {MEND}") from error
    found = hashlib.sha256(content).hexdigest()
    if found != entry.sha256:
        raise BadCommitted(
            f"{where}: its sha256 is {found[:12]}..., {INDEX} says {entry.sha256[:12]}...; {MEND}"
        )
    try:
        fill(model, load(content), where)
    except ValueError as error:
        raise BadCommitted(f"{error}; {MEND}") from error
    if (weights := fingerprint(model)) != entry.fingerprint:
        raise BadCommitted(
            f"{where}: its weights are {weights}, {INDEX} says {entry.fingerprint}; {MEND}"
        )
