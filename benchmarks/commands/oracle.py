"""``juxtabit oracle``."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.progress.line import started
from benchmarks.records import escape
from benchmarks.workers import stopping

if TYPE_CHECKING:
    from benchmarks.oracle.oracle_table import OracleTable


def oracle_command(options: argparse.Namespace, overrides: list[str]) -> int:
    """Evaluate a whole space, or read a published table."""
    with started():
        from benchmarks.oracle import released
        from benchmarks.oracle.oracle_table import parquet

    out = Path(options.out).expanduser()
    parquet()  # before the work
    if options.releq:
        table = released.releq(Path(options.releq).expanduser())
    else:
        table = _evaluated(options, overrides, out)
    table.write(out)
    shutil.rmtree(_parts(options, out), ignore_errors=True)
    print(f"Table: {escape.lines(str(out))}")
    print(f"{len(table)} policies, {out.stat().st_size / 1e6:.2f} MB, {table.fingerprint()}")
    return 0


def _parts(options: argparse.Namespace, out: Path) -> Path:
    return Path(options.parts).expanduser() if options.parts else out.with_suffix(".parts")


def _evaluated(options: argparse.Namespace, overrides: list[str], out: Path) -> OracleTable:
    from benchmarks.fingerprints.numerics import compute_on, place_named
    from benchmarks.oracle.landscape import Asked
    from benchmarks.oracle.parts import whole
    from benchmarks.progress.times import duration
    from benchmarks.suite.config import cell_of, composed
    from benchmarks.suite.setting import check

    config = composed(overrides)
    compute_on(place_named(str(config.device), config.amp))
    cell = cell_of(config)
    check(cell)
    folder = _parts(options, out)
    stopping.current().kept = lambda: (
        f"stopped; what was evaluated is kept in {folder}: run the same command again to go on"
    )
    with started() as shows:
        return whole(
            Asked(cell, options.test_images),
            folder,
            workers=options.workers,
            threads=options.threads,
            report=lambda done, total, left: shows.say(
                "policies", f"{done} of {total} policies, about {duration(left)} left"
            ),
        )
