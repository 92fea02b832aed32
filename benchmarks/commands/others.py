"""``juxtabit lut``, ``export``, ``diagnose`` and ``new``."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from benchmarks.progress.line import started
from benchmarks.records import escape
from benchmarks.workers import stopping


def lut_command(options: argparse.Namespace, overrides: list[str]) -> int:
    """``juxtabit lut``."""
    with started():
        from benchmarks.lut.command import lut
        from benchmarks.suite.config import composed

        config = composed(overrides, "lut")
        stopping.current().kept = lambda: (
            "stopped; nothing was saved, since a table is measured in one go"
        )
        path = None if options.cfg else lut(config)
    if path is None:
        from omegaconf import OmegaConf

        print(OmegaConf.to_yaml(config, resolve=True), end="")
        return 0
    print(f"Table: {path} (hardware={config.device} hardware.path={path})")
    return 0


def export_command(options: argparse.Namespace, _: list[str]) -> int:
    """``juxtabit export``."""
    with started():
        from benchmarks.export.command import Request, export

    request = Request(
        record=Path(options.record).expanduser(),
        to=options.to,
        out=Path(options.out).expanduser(),
        calibration=options.calibration,
        integer_bias=options.integer_bias,
        integer_outputs=options.integer_outputs,
        verify=options.verify,
        images=options.images,
        benchmark=options.benchmark,
        device=options.device,
    )
    return export(request)


def diagnose_command(options: argparse.Namespace, overrides: list[str]) -> int:
    """``juxtabit diagnose``."""
    folder = _usable(Path(options.out).expanduser()) if options.out else None
    with started() as shows:
        from benchmarks.fingerprints.numerics import compute_on, place_named
        from benchmarks.studies.diagnose import diagnosed, table, write
        from benchmarks.suite.config import cell_of, composed

        priced = any(override.startswith("hardware=") for override in overrides)
        # Bit operations have a price for activations, which are then among what is looked at.
        config = composed([*overrides, *([] if priced else ["hardware=bops"])])
        compute_on(place_named(str(config.device), config.amp))
        cell = cell_of(config)
        found = diagnosed(cell, shows)
    title = f"{cell['model']['name']} on {cell['dataset']['name']}"
    print(escape.lines(f"{title}: one layer alone quantized\n{table(found)}"))
    if folder is not None:
        write(found, title, folder)
        print(f"Pictures, table and JSON: {escape.lines(str(folder))}")
    return 0


def _usable(folder: Path) -> Path:
    """A folder that is made, and can be written into: before the work.

    Raises:
        OSError: it cannot.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        raise OSError(f"--out {folder}: cannot be written into ({error.strerror})") from error


def new_command(options: argparse.Namespace, _: list[str]) -> int:
    """``juxtabit new``."""
    from benchmarks.authors.new import write_package

    written = write_package(options.name, options.category, Path(options.into))
    for path in written:
        print(escape.lines(str(path)))
    folder = written[0].parent
    print(f"Install and test it: pip install -e {escape.lines(str(folder))}[test]; pytest {folder}")
    return 0
