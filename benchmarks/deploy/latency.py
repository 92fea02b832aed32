"""A latency table of a named network on this machine, as ``juxtabit lut`` measures it."""

from __future__ import annotations

import contextlib
import io
from dataclasses import replace
from pathlib import Path

from omegaconf import OmegaConf

from benchmarks.deploy.wanted import Wanted
from benchmarks.lut.command import Progress as Display
from benchmarks.lut.command import lut
from benchmarks.lut.plan import Unit
from benchmarks.models.preprocessing import UNLABELLED
from benchmarks.suite.assets import Progress
from benchmarks.suite.config import composed
from benchmarks.suite.options.budgets import budget_spec
from benchmarks.suite.options.lut import DEVICES
from benchmarks.suite.setting import check
from benchmarks.workers import stopping
from frameworks import targets

STAND_IN = "size"
"""A target that needs no table."""


def priced(wanted: Wanted, progress: Progress) -> Wanted:
    """A request whose target has its table, measured here where it needs one and none is given.

    Measuring takes minutes, so that all that can be refused is refused before.

    Raises:
        ValueError, OSError: the request cannot be carried out; the message says why.
    """
    if wanted.target not in DEVICES or wanted.table is not None:
        return wanted
    if not isinstance(wanted.model, str) or not isinstance(wanted.images, Path):
        raise ValueError(
            f"target = {wanted.target!r}: give table, a file of 'juxtabit lut'; of a network in "
            "memory none is measured here"
        )
    beside = wanted.out.with_suffix(f".{wanted.target}.json")
    wanted = replace(wanted, table=str(beside))
    refuse(wanted)
    measured(wanted, progress)
    stopping.current().kept = lambda: (
        f"stopped; the latencies are kept in {beside}, for --table; nothing else is"
    )
    return wanted


def refuse(wanted: Wanted) -> None:
    """Refuse what can be refused before there is a table: as on a target that needs none."""
    known = list(targets.get(wanted.target).metrics)
    if wanted.metric is not None and wanted.metric not in known:
        raise ValueError(f"metric: {wanted.target} has no {wanted.metric!r}; choose from {known}")
    plain = replace(wanted, target=STAND_IN, table=None)
    for name in wanted.methods:
        budget_spec(wanted.cell(name))
        check(plain.cell(name, {**plain.widest, "metric": None}))


def measured(wanted: Wanted, progress: Progress) -> None:
    """Measure the layers of a network at the size of its images, into its table.

    Processes that do not agree (a busy machine) do not stop it, as they would ``juxtabit lut``: the
    table says so in its ``method`` and ``worst_spread``.
    """
    given = {"checkpoint": wanted.weights} if wanted.weights else {"pretrained": True}
    config = composed([f"model={wanted.model}", f"dataset={UNLABELLED}"], "lut")
    changes = {
        "dataset.root": str(wanted.images),
        **{f"model.{key}": value for key, value in given.items()},
        "dataset.classes": wanted.classes,
        "out": wanted.table,
        "device": wanted.target,
        "force": True,
    }
    for key, value in changes.items():
        OmegaConf.update(config, key, value)
    with contextlib.redirect_stdout(io.StringIO()):
        lut(config, Shown(wanted.target, progress))


class Shown(Display):
    """Where a measurement is, by the callback of a longer work that it is a part of."""

    def __init__(self, device: str, progress: Progress) -> None:
        super().__init__()
        self._device, self._progress = device, progress
        progress(0, 1, f"measuring latencies on this {device}: a minute or two")

    def show(self, process: int, processes: int, done: int, count: int, unit: Unit) -> None:
        text = f"measuring latencies on this {self._device}, process {process + 1} of {processes},"
        self._progress(done, count, text)

    def end(self) -> None:
        """The line is not of this part alone."""
