"""``juxtabit lut``, ``export``, ``diagnose`` and ``new``."""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.records import escape
from benchmarks.workers import stopping


def lut_command(options: argparse.Namespace, overrides: list[str]) -> int:
    """``juxtabit lut``."""
    from benchmarks.lut.command import lut
    from benchmarks.suite.config import composed

    config = composed(overrides, "lut")
    if options.cfg:
        from omegaconf import OmegaConf

        print(OmegaConf.to_yaml(config, resolve=True), end="")
        return 0
    stopping.current().kept = lambda: (
        "stopped; nothing was saved, since a table is measured in one go"
    )
    path = lut(config)
    print(f"Table: {path} (hardware={config.device} hardware.path={path})")
    return 0


def export_command(options: argparse.Namespace, _: list[str]) -> int:
    """``juxtabit export``."""
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
    )
    return export(request)


def diagnose_command(options: argparse.Namespace, overrides: list[str]) -> int:
    """``juxtabit diagnose``."""
    from benchmarks.fingerprints.numerics import compute_on, place_named
    from benchmarks.progress.line import line
    from benchmarks.records.store import write_json, write_text
    from benchmarks.studies import diagnose
    from benchmarks.suite.config import cell_of, composed

    priced = any(override.startswith("hardware=") for override in overrides)
    # Bit operations have a price for activations, which are then among what is looked at.
    config = composed([*overrides, *([] if priced else ["hardware=bops"])])
    compute_on(place_named(str(config.device), config.amp))
    cell = cell_of(config)
    stopping.current().kept = lambda: "stopped; nothing was written"
    with line() as shows:
        found = diagnose.diagnosed(cell, shows)
    title = f"{cell['model']['name']} on {cell['dataset']['name']}"
    shown = f"{title}: one layer alone quantized\n{diagnose.table(found)}"
    print(escape.lines(shown))
    if options.out:
        folder = Path(options.out)
        write_text(folder / "diagnosis.txt", f"{shown}\n")
        write_text(folder / "diagnosis.svg", diagnose.picture(found, title))
        write_json(folder / "diagnosis.json", diagnose.as_rows(found))
        print(f"Picture, table and JSON: {escape.lines(str(folder))}")
    return 0


def new_command(options: argparse.Namespace, _: list[str]) -> int:
    """``juxtabit new``."""
    from benchmarks.authors.new import write_package

    written = write_package(options.name, options.category, Path(options.into))
    for path in written:
        print(escape.lines(str(path)))
    folder = written[0].parent
    print(f"Install and test it: pip install -e {escape.lines(str(folder))}[test]; pytest {folder}")
    return 0
