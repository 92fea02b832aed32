"""The command ``juxtabit lut``: measure, judge, show and save."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

from omegaconf import DictConfig, OmegaConf

from benchmarks.lut.content import content
from benchmarks.lut.machine import load, machine, versions
from benchmarks.lut.measure import Measurement, fresh_process, measure
from benchmarks.lut.plan import Unit, units_of
from benchmarks.lut.worker import backend_of
from benchmarks.models.preprocessing import resolved
from benchmarks.progress.line import Line
from benchmarks.progress.times import duration
from benchmarks.records.store import write_json
from benchmarks.suite.assets import entry_text, layers_of
from benchmarks.suite.options.lut import LIMIT, LutConfig, check_options
from frameworks import Layer, targets


class Unsteady(ValueError):
    """Processes do not agree, so that the figures may not be saved."""


def lut(config: DictConfig, display: Progress | None = None) -> Path:
    """Measure the table of a configuration and save it.

    Args:
        config: as composed from the root ``lut``.
        display: shows where the measurement is; a line on stderr by default.

    Returns:
        the file.

    Raises:
        ValueError: an option makes no sense, or the device or a package is not there.
        OSError: the file cannot be written.
        Unsteady: processes do not agree.
    """
    plain: Any = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    options = LutConfig(**plain)
    check_options(options)
    reason = backend_of(options.device).missing()
    if reason:
        raise ValueError(f"device={options.device}: {reason}")
    layers = layers_of(entry_text(plain["model"]), entry_text(resolved(plain)["dataset"]))
    units = units_of(layers, options.device)
    before = load()
    processor = fresh_process(options.device, options.seconds, options.threads)
    display = display or Progress()
    found = measure(units, processor, options.processes, options.extra, display.show)
    display.end()
    data = {**content(layers, found, options.device), **_about(options, found, before)}
    print(text_of(layers, found, data["notes"]))
    if found.unsteady and not options.force:
        raise Unsteady(
            f"not saved: fresh processes differ by more than {LIMIT:.0%} on "
            f"{'; '.join(found.unsteady)}. The machine was busy or its clock unsteady (load "
            f"{before} before, {load()} after): measure again in quiet, with more seconds= or "
            "extra=, or save with force=true"
        )
    path = Path(options.out).expanduser()
    write_json(path, data)
    measured: Any = targets.get(options.device)
    measured(path=str(path)).prepare(layers)
    return path


def _about(options: LutConfig, found: Measurement, before: list[float] | None) -> dict[str, Any]:
    steady = [figure for figure in found.figures if figure.unsupported is None]
    return {
        "model": options.model["name"],  # type: ignore[index]
        "dataset": options.dataset["name"],  # type: ignore[index]
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": machine(),
        "versions": {**versions(), **found.facts},
        "method": {
            "processes": found.processes,
            "seconds": options.seconds,
            "threads": options.threads,
            "forced": options.force,
        },
        "load": {"before": before, "after": load()},
        "worst_spread": round(max(figure.spread for figure in steady), 4),
        "call_overhead": round(found.idle.best * 1e3, 7),
    }


def text_of(layers: Sequence[Layer], found: Measurement, notes: Sequence[str]) -> str:
    """The table for the terminal: microseconds by layer and class, with the spread."""
    classes = list(dict.fromkeys(unit.arithmetic for unit in found.units))
    cells = {
        (name, unit.arithmetic): "-"
        if figure.unsupported
        else f"{figure.best * unit.calls * 1e6:.1f} us +{figure.spread:.0%}"
        for unit, figure in found.pairs
        for name in unit.layers
    }
    width = max(len(layer.name) for layer in layers)
    lines = ["".join([f"{'layer':<{width}}", *(f"{name:>18}" for name in classes)])]
    for layer in layers:
        line = [cells[layer.name, name] for name in classes]
        lines.append("".join([f"{layer.name:<{width}}", *(f"{cell:>18}" for cell in line)]))
    return "\n".join([*lines, *(f"- {note}" for note in notes)])


class Progress:
    """Where a measurement is, on a stream (stderr by default)."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._line = Line(stream)
        self._started = time.monotonic()

    def show(self, process: int, processes: int, done: int, count: int, unit: Unit) -> None:
        """Say which unit is measured, and how long the rest will take."""
        share = (process + done / count) / processes
        spent = time.monotonic() - self._started
        left = f"{duration(spent / share * (1 - share))} left" if share else "starting"
        self._line.say(
            f"process {process}",
            f"process {process + 1} of {processes}, {min(done + 1, count)} of {count} "
            f"({unit.title}): {left}",
        )

    def end(self) -> None:
        """Leave the line."""
        self._line.close()
