"""Cells of configurations computed, with the baselines beside them, and their table written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.commands.tables import guarded
from benchmarks.workers import stopping

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from benchmarks.records.record import Record
    from benchmarks.suite.config import Cell
    from benchmarks.suite.run import Outcome
    from benchmarks.suite.tracking import Tracker


def execute(configs: Sequence[DictConfig]) -> tuple[Outcome, Path]:
    """Run the cells of configurations that differ in nothing but cells, and write their table.

    Returns:
        the outcome and the folder of its results.
    """
    outcome = computed(configs)
    return outcome, tabled(outcome, configs[0])


def computed(configs: Sequence[DictConfig]) -> Outcome:
    """Run the cells of configurations that differ in nothing but cells."""
    from benchmarks.suite.options.limits import seconds
    from benchmarks.suite.run import run

    config = configs[0]
    _, folder = place_of(config)

    def compute(cells: list[Cell]) -> Outcome:
        return run(
            cells,
            folder,
            **numbers(config),
            rerun=bool(config.rerun),
            timeout=seconds("timeout", config.timeout),
            tracker=tracker_of(config),
        )

    cells, baselines = wanted(configs)
    return beside_baselines(cells, baselines, compute)


def numbers(config: DictConfig) -> dict[str, Any]:
    """How many processes and threads of a run compute, where, and in what precision."""
    counts = {"workers": int(config.workers), "threads": int(config.threads)}
    return {**counts, "device": str(config.device), "amp": config.amp}


def tracker_of(config: DictConfig) -> Tracker:
    """What mirrors the records of a run."""
    from omegaconf import OmegaConf

    from benchmarks.suite.tracking import make_tracker

    plain: Any = OmegaConf.to_container(config.tracker, resolve=True)
    return make_tracker(plain, place_of(config)[0])


def tabled(outcome: Outcome, config: DictConfig) -> Path:
    """Write the table of a suite; the folder of the results."""
    from benchmarks.report.table import write

    _, folder = place_of(config)
    stopping.current().kept = lambda: (
        f"stopped; all that was computed is kept in {folder / 'records'}\n"
        "juxtabit: run the same command again for the table"
    )
    if config.suite is not None:
        guarded(outcome.records, [], lambda table: write(table, folder))
        tracker_of(config).table(folder)
    return folder


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


def known_cells(configs: Sequence[DictConfig]) -> dict[str, Cell]:
    """The cells of configurations by their keys, with the baselines that wait for no record."""
    from benchmarks.suite.identity import keyed
    from benchmarks.suite.rivals import baselines_of, waits

    cells, beside = wanted(configs)
    cells += [b for cell in beside if not waits(cell) for b in baselines_of(cell, default)]
    return keyed(distinct(cells), int(configs[0].threads))


def beside_baselines(
    cells: list[Cell], beside: list[Cell], compute: Callable[[list[Cell]], Outcome]
) -> Outcome:
    """Cells and their baselines, at once where these need nothing of a record."""
    from benchmarks.suite.rivals import baselines_of, waits
    from benchmarks.suite.run import Outcome

    late = [cell for cell in beside if waits(cell)]
    now = [b for cell in beside if cell not in late for b in baselines_of(cell, default)]
    own = compute(distinct([*cells, *now]))
    if not late:
        return own
    missing = [b for cell in late for b in baselines_of(cell, default, _of(cell, own.records))]
    others = compute(distinct(missing))
    kept = {record.key: record for record in [*own.records, *others.records]}
    return Outcome(
        list(kept.values()),
        own.computed + others.computed,
        others.log or own.log,
        own.shared + others.shared,
    )


def default(name: str) -> dict[str, Any]:
    """The default configuration of a framework."""
    from omegaconf import OmegaConf

    from benchmarks.suite.config import composed

    plain: Any = OmegaConf.to_container(composed([f"framework={name}"]).framework)
    return dict(plain)


def distinct(cells: list[Cell]) -> list[Cell]:
    """Cells, equal ones once."""
    return [cell for i, cell in enumerate(cells) if cell not in cells[:i]]


def _of(cell: Cell, records: Sequence[Record]) -> Record | None:
    return next((record for record in records if record.cell == cell), None)
