"""``juxtabit run``: a cell with its baselines, a sweep, or a suite, through one pool."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.commands.tables import guarded
from benchmarks.commands.words import row, say
from benchmarks.progress.show import showing

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from benchmarks.records.record import Record
    from benchmarks.suite.config import Cell
    from benchmarks.suite.run import Outcome

SHARED = ("results", "workers", "threads", "device", "amp", "rerun", "timeout", "tracker")
"""Keys of the run and not of its cells: the same in all jobs of a sweep."""


def run_command(options: argparse.Namespace, overrides: list[str]) -> int:
    """Compute what the overrides ask for; the exit code."""
    overrides = [*overrides, *(["retrain=true"] if options.retrain else [])]
    if options.multirun and any(text.startswith(("hydra/", "hydra.")) for text in overrides):
        return launched(overrides)
    with showing():
        configs = configurations(overrides, sweep=options.multirun)
        if options.cfg or options.keys or options.dry_run:
            outcome = None
        else:
            outcome, folder = execute(configs)
    if options.keys:
        return _print_keys(configs[0])
    if options.cfg:
        return _print_configurations(configs)
    if outcome is None:
        return dry_run(configs)
    return report(outcome, folder)


def configurations(overrides: Sequence[str], *, sweep: bool) -> list[DictConfig]:
    """The configuration, or those of all jobs of a sweep.

    Raises:
        ValueError: the jobs differ in a key of the run.
    """
    from benchmarks.suite.config import composed
    from benchmarks.suite.options.sweeps import for_framework, jobs
    from frameworks import registry

    names = registry.names()
    if not sweep:
        return [composed(for_framework(overrides, names))]
    configs = [composed(job) for job in jobs(overrides, names)]
    for key in SHARED:
        values = [str(config[key]) for config in configs]
        if len(set(values)) > 1:
            raise ValueError(f"{key} is the same for all of a sweep, not {sorted(set(values))}")
    return configs


def _print_configurations(configs: Sequence[DictConfig]) -> int:
    from omegaconf import OmegaConf

    print("---\n".join(OmegaConf.to_yaml(config, resolve=True) for config in configs), end="")
    return 0


def _print_keys(config: DictConfig) -> int:
    from benchmarks.commands.keys import key_lines

    for line in key_lines(config, shutil.get_terminal_size((100, 24)).columns):
        row(line)
    return 0


def execute(configs: Sequence[DictConfig]) -> tuple[Outcome, Path]:
    """Run the cells of configurations that differ in nothing but cells.

    Returns:
        the outcome and the folder of its results.
    """
    from omegaconf import OmegaConf

    from benchmarks.report.table import write
    from benchmarks.suite.options.limits import seconds
    from benchmarks.suite.run import run
    from benchmarks.suite.tracking import make_tracker

    config = configs[0]
    name, folder = place_of(config)
    plain: Any = OmegaConf.to_container(config.tracker, resolve=True)
    tracker = make_tracker(plain, name)

    def compute(cells: list[Cell]) -> Outcome:
        return run(
            cells,
            folder,
            workers=int(config.workers),
            threads=int(config.threads),
            device=str(config.device),
            amp=config.amp,
            rerun=bool(config.rerun),
            timeout=seconds("timeout", config.timeout),
            tracker=tracker,
        )

    cells, baselines = wanted(configs)
    outcome = beside_baselines(cells, baselines, compute)
    if config.suite is not None:
        guarded(outcome.records, [], lambda table: write(table, folder))
        tracker.table(folder)
    return outcome, folder


def place_of(config: DictConfig) -> tuple[str, Path]:
    """The name of a run (its suite's, or ``runs``) and the folder of its results."""
    from benchmarks.suite.config import results_folder, suite_name

    name = "runs" if config.suite is None else suite_name(config.suite)
    return name, results_folder(config.results) / name


def wanted(configs: Sequence[DictConfig]) -> tuple[list[Cell], list[Cell]]:
    """The cells of configurations, and those of them that baselines stand beside."""
    from benchmarks.suite.config import cell_of, suite_cells

    cells: list[Cell] = []
    beside: list[Cell] = []
    for config in configs:
        if config.suite is not None:
            cells += suite_cells(config)
            continue
        cells.append(cell_of(config))
        beside += cells[-1:] if config.baselines else []
    return cells, beside


def beside_baselines(
    cells: list[Cell], beside: list[Cell], compute: Callable[[list[Cell]], Outcome]
) -> Outcome:
    """Cells and their baselines, at once where these need nothing of a record."""
    from benchmarks.suite.rivals import baselines_of, waits
    from benchmarks.suite.run import Outcome

    late = [cell for cell in beside if waits(cell)]
    now = [b for cell in beside if cell not in late for b in baselines_of(cell, default)]
    own = compute(_distinct([*cells, *now]))
    if not late:
        return own
    missing = [b for cell in late for b in baselines_of(cell, default, _of(cell, own.records))]
    others = compute(_distinct(missing))
    kept = {record.key: record for record in [*own.records, *others.records]}
    return Outcome(list(kept.values()), own.computed + others.computed, others.log or own.log)


def default(name: str) -> dict[str, Any]:
    """The default configuration of a framework."""
    from omegaconf import OmegaConf

    from benchmarks.suite.config import composed

    plain: Any = OmegaConf.to_container(composed([f"framework={name}"]).framework)
    return dict(plain)


def _distinct(cells: list[Cell]) -> list[Cell]:
    return [cell for i, cell in enumerate(cells) if cell not in cells[:i]]


def _of(cell: Cell, records: Sequence[Record]) -> Record | None:
    return next((record for record in records if record.cell == cell), None)


def dry_run(configs: Sequence[DictConfig]) -> int:
    """List the cells, which are there, and about how long the others will take."""
    from benchmarks.progress.times import Times, duration, recorded
    from benchmarks.records.store import Store
    from benchmarks.suite.identity import keyed
    from benchmarks.suite.progress import title
    from benchmarks.suite.rivals import baselines_of, waits

    config = configs[0]
    _, folder = place_of(config)
    cells, beside = wanted(configs)
    late = [cell for cell in beside if waits(cell)]
    # Baselines that get a record's images are not known before it is there.
    cells += [b for cell in beside for b in baselines_of(cell, default)]
    store, times = Store(folder / "records"), Times()
    for cell, seconds in recorded(folder):
        times.learn(cell, seconds, here=False)
    waiting: list[Cell] = []
    found = keyed(_distinct(cells), int(config.threads))
    for key, cell in found.items():
        record = store.get(key)
        there = record is not None and record.status != "failed" and not config.rerun
        waiting += [] if there else [cell]
        expected = times.expected(cell)
        about = "" if there else f"  about {duration(expected)}" if expected else "  not known"
        state = "there" if there else "failed" if record is not None else "to do"
        print(f"{state:<7}{title(cell)}{about}")
    workers = int(config.workers) or os.cpu_count() or 1
    left = times.left(waiting, [], workers)
    print(f"{len(found)} cells, {len(waiting)} to compute; with {workers} workers {left}")
    if late:
        print("random and greedy get the images that the framework spends, once it is computed")
    return 0


def report(outcome: Outcome, folder: Path) -> int:
    """Print the table, and where everything is; the exit code."""
    faults: list[str] = []
    print(guarded(outcome.records, faults, lambda table: table.text()))
    print(f"{outcome.computed} of {len(outcome.records)} cells had to be computed.")
    print(f"Records: {folder / 'records'}")
    if outcome.log:
        print(f"Log:     {outcome.log}")
    page = folder / "juxtaposition.html"
    if page.exists():
        print(f"Page:    {page}")
    for record in outcome.failed:
        from benchmarks.suite.progress import title

        say(f"\nFAILED {title(record.cell)}\n{record.error}")
    return 1 if outcome.failed or faults else 0


def launched(overrides: list[str]) -> int:
    """A sweep by a launcher of Hydra's: each job is a run of its own with the same store."""
    import hydra

    from benchmarks.suite.config import check_options, conf_folder, register_configs
    from benchmarks.suite.options.overrides import unquoted

    check_options(overrides)
    register_configs()
    os.environ["HYDRA_FULL_ERROR"] = "1"
    failed = 0

    @hydra.main(version_base="1.3", config_path=str(conf_folder()), config_name="config")
    def job(config: DictConfig) -> None:
        nonlocal failed
        outcome, _ = execute([config])
        failed += len(outcome.failed)

    sys.argv = ["juxtabit run", "-m", *unquoted(overrides)]
    with showing():
        job()
    return 1 if failed else 0
