"""``juxtabit run -m hydra/launcher=NAME``: the jobs of a sweep on a cluster or another pool.

Each job is a run of its own in the same folder, by the same code as without a launcher; runs share
cells (see `benchmarks.records.claims`), so that a baseline of several jobs is computed once.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.commands.executing import computed, known_cells, place_of, tabled
from benchmarks.commands.words import meant

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from benchmarks.progress.board import Board
    from benchmarks.records.record import Record
    from benchmarks.records.store import Store
    from benchmarks.suite.config import Cell
    from benchmarks.suite.progress import Titles
    from benchmarks.suite.run import Outcome

PREFIXES = ("hydra/", "hydra.", "+hydra", "~hydra")
EXTRAS = {
    "joblib": "launchers",
    "submitit_local": "launchers",
    "submitit_slurm": "launchers",
    "ray": "ray",
    "ray_aws": "ray",
}
"""The extra of juxtabit's that installs a launcher."""
TICK = 1.0
"""Seconds between looks at what jobs have done."""


def parted(overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    """The overrides of cells and runs, and those of Hydra itself, such as its launcher."""
    own = [text for text in overrides if not text.startswith(PREFIXES)]
    return own, [text for text in overrides if text.startswith(PREFIXES)]


@dataclass(frozen=True)
class Jobs:
    """What a launcher calls with the number of a job, wherever that may be.

    Attributes:
        overrides: of each job.
        cwd: the folder that relative paths start from.
    """

    overrides: list[list[str]]
    cwd: str

    def __call__(self, config: DictConfig) -> list[str]:
        """Compute the cells of a job; their keys, as they are on the machine that computes it."""
        from benchmarks.suite.config import composed

        with contextlib.chdir(self.cwd), _spawning():
            own = composed(self.overrides[int(config.job)])
            if not own.workers:  # the launcher decides how much goes on at once
                own.workers = 1
            return [record.key for record in computed([own]).records]


@dataclass(frozen=True)
class Launched:
    """What jobs have led to.

    Attributes:
        keys: of the cells that they were asked for.
        faults: what is wrong with jobs that ended without saying.
    """

    keys: list[str]
    faults: list[str]


def unknown_launcher(name: str, there: Sequence[str]) -> str:
    """What to do about a launcher that is not there.

    Args:
        name: as it was asked for.
        there: the launchers that are installed.
    """
    if name in EXTRAS:
        extra = f"juxtabit[{EXTRAS[name]}]"
        return f"hydra/launcher={name} is in {extra}, not installed here: pip install '{extra}'"
    others = [f"{known} (juxtabit[{x}])" for known, x in EXTRAS.items() if known not in there]
    hint = meant(name, {*there, *EXTRAS})
    return f"unknown hydra/launcher {name!a}{hint}; choose from {', '.join([*there, *others])}"


def launch(jobs: Jobs, settings: Sequence[str], folder: Path) -> Launched:
    """Have jobs done by a launcher of Hydra's, and wait for them.

    Args:
        jobs: what is to be done.
        settings: overrides of Hydra's own, such as ``hydra/launcher=ray``.
        folder: of the run; files of launchers go there, too.

    Raises:
        MissingConfigException: there is no such launcher.
    """
    from hydra._internal.callbacks import Callbacks
    from hydra.core.plugins import Plugins
    from hydra.types import HydraContext

    os.environ["HYDRA_FULL_ERROR"] = "1"
    with _configured(settings, folder) as (config, loader):
        context = HydraContext(config_loader=loader, callbacks=Callbacks(config))
        launcher = Plugins.instance().instantiate_launcher(context, jobs, config)
        numbers = [[f"+job={i}"] for i in range(len(jobs.overrides))]
        try:
            returned = launcher.launch(numbers, initial_job_idx=0)
        except Exception as error:  # of a job that died, say; what others have done is there
            return Launched([], [f"the launcher gave up: {type(error).__name__}: {error}"])
    keys: dict[str, None] = {}
    faults = []
    for overrides, job in zip(jobs.overrides, returned, strict=True):
        try:
            keys.update(dict.fromkeys(job.return_value))
        except Exception as error:
            faults.append(f"the job {' '.join(overrides)}: {type(error).__name__}: {error}")
    return Launched(list(keys), faults)


@contextlib.contextmanager
def _configured(settings: Sequence[str], folder: Path) -> Iterator[tuple[DictConfig, Any]]:
    """Within the context Hydra is there: the launcher's configuration, and a loader of jobs'.

    Raises:
        MissingConfigException, ConfigCompositionException: there is no such launcher, or key.
    """
    from hydra.core.global_hydra import GlobalHydra
    from hydra.types import RunMode

    from benchmarks.suite.config import hydra

    with hydra():
        inner: Any = GlobalHydra.instance().hydra
        wanted = [*settings, *_quiet(settings, folder)]
        yield inner.compose_config("config", wanted, RunMode.MULTIRUN), inner.config_loader


def _quiet(settings: Sequence[str], folder: Path) -> list[str]:
    """What keeps a launcher quiet, and its files in the run's folder, where that is not given."""
    given = {text.partition("=")[0].lstrip("+"): text.partition("=")[2] for text in settings}
    found = {"hydra/job_logging": "none", "hydra/hydra_logging": "none"}
    if given.get("hydra/launcher", "").startswith("submitit"):
        files = folder.absolute() / "logs" / "submitit" / "%j"
        found["hydra.launcher.submitit_folder"] = f"'{files}'"
    if given.get("hydra/launcher") == "ray":  # jobs' own progress would come between ours
        found["+hydra.launcher.ray.init.log_to_driver"] = "false"
    return [f"{key}={value}" for key, value in found.items() if key.lstrip("+") not in given]


@contextlib.contextmanager
def _spawning() -> Iterator[None]:
    """Within the context, processes start as usual, whatever joblib's workers do."""
    before = multiprocessing.get_start_method(allow_none=True)
    multiprocessing.set_start_method("spawn", force=True)
    try:
        yield
    finally:
        multiprocessing.set_start_method(before, force=True)


@contextlib.contextmanager
def watched(store: Store, todo: dict[str, Cell], board: Board) -> Iterator[None]:
    """Within the context, records that jobs write are shown as they come."""
    from benchmarks.suite.progress import Titles

    title = Titles(todo.values())
    waiting = {key: store.state(key) for key in todo}
    closed = threading.Event()

    def look() -> None:
        for key in [key for key, before in waiting.items() if store.state(key) != before]:
            record = store.get(key)
            if record is not None:
                del waiting[key]
                _show(record, title, board)

    def watch() -> None:
        while not closed.wait(TICK):
            look()

    board.begin(todo, min(len(todo), os.cpu_count() or 1))
    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        closed.set()
        thread.join()
        look()


def _show(record: Record, title: Titles, board: Board) -> None:
    from benchmarks.progress.times import seconds_of
    from benchmarks.suite.progress import outcome

    seconds = seconds_of(record.status, record.timings)
    board.finished(record.key, title(record.cell), outcome(record), seconds)


def launched(
    configs: Sequence[DictConfig], overrides: Sequence[str], settings: Sequence[str]
) -> tuple[Outcome, Path]:
    """The cells of a sweep, computed by a launcher of Hydra's.

    Args:
        configs: of the jobs.
        overrides: of the sweep, from which the configurations were made.
        settings: overrides of Hydra's own, such as ``hydra/launcher=ray``.

    Returns:
        the outcome and the folder of its results, as of the local pool.
    """
    from benchmarks.progress.show import joined
    from benchmarks.records.store import Store
    from benchmarks.suite.options.sweeps import jobs
    from benchmarks.suite.run import Outcome
    from benchmarks.suite.running.log import Log
    from frameworks import registry

    _, folder = place_of(configs[0])
    with _configured(settings, folder):
        pass  # before anything is looked at or written
    store, log = Store(folder / "records"), Log(folder)
    known = known_cells(configs)
    todo = {key: cell for key, cell in known.items() if _missing(store, key, configs[0])}
    store.probe(todo)
    before = {key: store.state(key) for key in todo}
    with joined() as board, watched(store, todo, board):
        ours = Jobs(jobs(overrides, registry.names()), os.getcwd())
        made = launch(ours, settings, folder)
    log.close([], board.printed())
    # Machines of other kinds than this one compute cells under other keys.
    records = [record for key in made.keys or known if (record := store.get(key)) is not None]
    fresh = sum(store.state(key) != state for key, state in before.items())
    outcome = Outcome(records, fresh, log.written, faults=made.faults)
    return outcome, tabled(outcome, configs[0])


def _missing(store: Store, key: str, config: DictConfig) -> bool:
    record = store.get(key)
    return bool(config.rerun) or record is None or record.status == "failed"
