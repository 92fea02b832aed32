"""``juxtabit run``: a cell with its baselines, a sweep, or a suite, through one pool."""

from __future__ import annotations

import argparse
import os
import shutil
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.commands.executing import default, distinct, execute, numbers, place_of, wanted
from benchmarks.commands.launch import launched, parted
from benchmarks.commands.tables import guarded
from benchmarks.commands.words import heard, row, say
from benchmarks.progress.show import showing
from benchmarks.workers import stopping

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from benchmarks.suite.config import Cell
    from benchmarks.suite.run import Outcome

SHARED = ("results", "workers", "threads", "device", "amp", "rerun", "timeout", "tracker")
"""Keys of the run and not of its cells: the same in all jobs of a sweep."""


def run_command(options: argparse.Namespace, overrides: list[str]) -> int:
    """Compute what the overrides ask for; the exit code."""
    overrides = [*overrides, *(["retrain=true"] if options.retrain else [])]
    overrides, settings = parted(overrides) if options.multirun else (overrides, [])
    if not (options.cfg or options.keys or options.dry_run):
        stopping.current().kept = lambda: stopping.AGAIN
    with showing():
        configs = configurations(overrides, sweep=options.multirun)
        if options.cfg or options.keys or options.dry_run:
            outcome = None
        elif settings:
            outcome, folder = launched(configs, overrides, settings)
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
    from benchmarks.suite.options.sweeps import for_framework, jobs, refuse_mistyped
    from frameworks import registry

    names = registry.names()
    classes: list[Any] = [registry.get(name) for name in names]
    refuse_mistyped(overrides, names, {field.name for cls in classes for field in fields(cls)})
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


def dry_run(configs: Sequence[DictConfig]) -> int:
    """List the cells, which are there, and about how long the others will take.

    What a run refuses is refused here, too.
    """
    from benchmarks.progress.times import Times, duration, recorded
    from benchmarks.records.store import Store
    from benchmarks.suite.options.limits import seconds
    from benchmarks.suite.progress import Titles
    from benchmarks.suite.rivals import baselines_of, waits
    from benchmarks.suite.run import checked, settled

    config = configs[0]
    seconds("timeout", config.timeout)
    settled(**numbers(config))
    _, folder = place_of(config)
    cells, beside = wanted(configs)
    late = [cell for cell in beside if waits(cell)]
    # Baselines that get a record's images are not known before it is there.
    cells += [b for cell in beside for b in baselines_of(cell, default)]
    store, times = Store(folder / "records"), Times()
    for cell, spent in recorded(folder):
        times.learn(cell, spent, here=False)
    waiting: list[Cell] = []
    found = checked(distinct(cells), int(config.threads))
    title = Titles(found.values())
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
    with heard():
        print(guarded(outcome.records, faults, lambda table: table.text()))
        print(f"{outcome.computed} of {len(outcome.records)} cells had to be computed.")
        if outcome.shared:
            print(f"{outcome.shared} were computed by another command at the same time.")
        print(f"Records: {folder / 'records'}")
        if outcome.log:
            print(f"Log:     {outcome.log}")
        page = folder / "juxtaposition.html"
        if page.exists():
            print(f"Page:    {page}")
        else:
            print(f"Page:    make it, and pictures: juxtabit table {folder} --out {folder}")
        if outcome.failed:
            _tell_failed(outcome)
        for fault in outcome.faults:
            say(f"\njuxtabit: {fault}")
    return 1 if outcome.failed or outcome.faults or faults else 0


def _tell_failed(outcome: Outcome) -> None:
    """Name the cells that failed, with why."""
    from benchmarks.suite.progress import Titles

    title = Titles(record.cell for record in outcome.records)
    for record in outcome.failed:
        say(f"\nFAILED {title(record.cell)}\n{record.error}")
