"""A latency table of a named network on this machine, as ``juxtabit lut`` measures it."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

from omegaconf import OmegaConf

from benchmarks.lut.command import lut
from benchmarks.models.preprocessing import UNLABELLED
from benchmarks.suite.config import composed


def measured(model: str, weights: str | None, images: str, device: str, out: str) -> Path:
    """Measure the layers of a network at the size of its images.

    Processes that do not agree (a busy machine) do not stop it, as they would ``juxtabit lut``: the
    table says so in its ``method`` and ``worst_spread``.

    Returns:
        the table, ``.DEVICE.json`` beside ``out``.
    """
    path = Path(out).expanduser().with_suffix(f".{device}.json")
    config = composed([f"model={model}", f"dataset={UNLABELLED}"], "lut")
    changes = {
        "dataset.root": str(Path(images).expanduser()),
        **({"model.checkpoint": weights} if weights else {"model.pretrained": True}),
        "out": str(path),
        "device": device,
        "force": True,
    }
    for key, value in changes.items():
        OmegaConf.update(config, key, value)
    with contextlib.redirect_stdout(io.StringIO()):
        return lut(config)
