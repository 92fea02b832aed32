"""Scoring passes, kept so that the cells of other budgets need not repeat them."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Callable
from pathlib import Path

from safetensors.torch import load
from safetensors.torch import save as as_safetensors

from benchmarks.records.cache import locked
from benchmarks.records.plaindata import as_plain
from benchmarks.records.record import digest
from benchmarks.records.store import read_json, write_bytes, write_json
from frameworks import Scores, Spent


def shared_scores(
    path: Path,
    where: str,
    make: Callable[[], tuple[Scores, Spent]],
    waits: Callable[[bool], None] = lambda _: None,
) -> tuple[Scores, Spent]:
    """The scores kept in a file, and what they cost; made if it is not there and whole.

    Args:
        path: a JSON file; images go beside it.
        where: names the framework's method in messages.
        make: makes them.
        waits: see `benchmarks.records.cache.locked`.

    Raises:
        NotPlain: the scores hold what has no plain meaning.
    """
    with locked(path, waits):
        kept = _read(path)
        if kept is None:
            scores, spent = make()
            values = as_plain(dict(scores.values), f"{where}: values", exact=True)
            images = None if scores.images is None else scores.images.detach().contiguous()
            kept = Scores(values, images), spent
            _keep(path, *kept)
    return kept


def _keep(path: Path, scores: Scores, spent: Spent) -> None:
    """Write them; a disk that has no room for them costs no more than the time to make them."""
    images = b"" if scores.images is None else as_safetensors({"images": scores.images})
    facts = {"values": scores.values, "spent": spent.to_json(), "images": _checksum(images)}
    try:
        if images:
            write_bytes(path.with_suffix(".safetensors"), images)
        # A score may be infinite: a standard error of one draw, say.
        write_json(path, {**facts, "digest": digest(facts)}, nonfinite=True)
    except OSError as error:
        warnings.warn(f"scores are not kept: {error}", stacklevel=4)


def _checksum(content: bytes) -> str | None:
    return hashlib.sha256(content).hexdigest() if content else None


def _read(path: Path) -> tuple[Scores, Spent] | None:
    """What a file holds; None, with a warning, if that is not what was written."""
    if not os.path.lexists(path):
        return None
    try:
        kept = read_json(path)
        if not isinstance(kept, dict) or kept.pop("digest", None) != digest(kept):
            raise ValueError("other content than was written")
        images = path.with_suffix(".safetensors").read_bytes() if kept["images"] else b""
        if _checksum(images) != kept["images"]:
            raise ValueError("the images are not those that were written")
        made = load(images)["images"] if images else None
        return Scores(kept["values"], made), Spent(**kept["spent"])
    except (OSError, ValueError) as error:
        warnings.warn(f"{path}: {error}; the scores are made again", stacklevel=4)
        return None
