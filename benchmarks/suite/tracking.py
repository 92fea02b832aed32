"""Mirrors of the records: nothing, or Weights & Biases (offline by default).

The records in the store remain the truth: a mirror that fails is said in a warning, and after some
failures in a row it is left off; the sweep goes on.
"""

from __future__ import annotations

import json
import re
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from benchmarks.records.record import Record
from benchmarks.suite.progress import title

TRACKERS = ("none", "wandb")
MODES = ("offline", "online", "disabled")
PATIENCE = 3
"""Failures in a row after which no more is mirrored."""


class Tracker(Protocol):
    """What a mirror does; the records in the store remain the truth."""

    def record(self, record: Record) -> None:
        """A cell has ended."""

    def table(self, folder: Path) -> None:
        """The table of a run has been written to a folder."""


class NoTracker:
    """Tracking is off."""

    def record(self, record: Record) -> None:
        """Do nothing."""

    def table(self, folder: Path) -> None:
        """Do nothing."""


class WandbTracker:
    """One W&B run for each cell; its id is the cell's key.

    A cell that is computed again takes the place of its earlier run: offline the earlier one's
    folder is removed, online a run of the same id is written anew. So nothing is there twice.
    """

    def __init__(self, config: dict[str, Any], group: str) -> None:
        import wandb

        self._wandb = wandb
        self.group = group
        self.config = config
        self.folder = Path(config["folder"]).expanduser()
        self.folder.mkdir(parents=True, exist_ok=True)
        self._failures = 0

    def logged_in(self) -> bool:
        """Whether wandb knows a key; nobody is asked for one."""
        try:
            return bool(self._wandb.login(prompt=False))
        except TypeError:  # earlier versions ask only where there is a terminal
            return True

    def record(self, record: Record) -> None:
        """Mirror a cell: configuration, curve, results, bits by layer and policy."""
        self._tried(lambda: self._mirror(record))

    def table(self, folder: Path) -> None:
        """Mirror the table's files as an artifact."""
        self._tried(lambda: self._mirror_table(folder))

    def _tried(self, mirror: Callable[[], None]) -> None:
        if self._failures >= PATIENCE:
            return
        try:
            mirror()
            self._failures = 0
        except Exception as error:  # whatever it is, the cell is done and kept
            self._failures += 1
            off = "; no more is mirrored" if self._failures >= PATIENCE else ""
            fault = f"{type(error).__name__}: {error}"
            warnings.warn(f"tracker wandb: {fault} (the records are kept){off}", stacklevel=3)

    def _start(self, name: str, identity: str, job: str, config: dict[str, Any]) -> Any:
        for earlier in (self.folder / "wandb").glob(f"offline-run-*-{identity}"):
            shutil.rmtree(earlier)
        return self._wandb.init(
            project=self.config["project"],
            mode=self.config["mode"],
            dir=str(self.folder),
            id=identity,
            name=name,
            group=self.group,
            job_type=job,
            config=config,
            reinit="finish_previous",
            settings=self._wandb.Settings(silent=True, console="off"),
        )

    def _mirror(self, record: Record) -> None:
        config = {**record.cell, "key": record.key, "code": record.code, "card": record.card}
        run = self._start(title(record.cell), record.key, "search", config)
        run.define_metric("search/images")
        run.define_metric("search/*", step_metric="search/images")
        for point in record.curve:
            run.log({f"search/{name}": value for name, value in point.items()})
        if record.policy:
            self._policy(run, record)
        run.summary.update(_summary(record))
        run.finish(exit_code=1 if record.status == "failed" else 0)

    def _policy(self, run: Any, record: Record) -> None:
        """The bits of every layer as a table, and policy and record as an artifact."""
        # Bits by output channel are many numbers, and a column has one type.
        rows: list[Any] = [
            [name, json.dumps(bits["weight"]), int(bits["act"])]
            for name, bits in (record.policy or {}).items()
        ]
        table = self._wandb.Table(columns=["layer", "weight bits", "activation bits"], data=rows)
        run.log({"policy": table})
        artifact = self._wandb.Artifact(f"policy-{record.key}", type="policy")
        for name, data in (("policy", record.policy), (record.key, record.sealed())):
            with artifact.new_file(f"{name}.json") as file:
                json.dump(data, file, indent=1)
        run.log_artifact(artifact)

    def _mirror_table(self, folder: Path) -> None:
        name = re.sub(r"[^\w.-]", "-", self.group)  # an id has no separators
        run = self._start(f"table {self.group}", f"table-{name}", "table", {})
        artifact = self._wandb.Artifact(f"juxtaposition-{name}", type="result")
        for path in sorted(folder.glob("juxtaposition.*")):
            artifact.add_file(str(path))
        run.log_artifact(artifact)
        run.finish()


def _summary(record: Record) -> dict[str, Any]:
    """The results as flat names; what was not measured is left out."""
    flat = {
        "status": record.status,
        "within budget": record.budget.get("within"),
        "reason": record.reason,
        **{f"accuracy/{k}": v for k, v in record.accuracy.items()},
        **{f"cost/{k}": v for k, v in record.costs.items()},
        **{f"bits/{k}": v for k, v in record.bits.items()},
        **{f"spent/{k}": v for k, v in record.search.items() if not isinstance(v, dict)},
    }
    return {name: value for name, value in flat.items() if value is not None}


def make_tracker(config: dict[str, Any], group: str) -> Tracker:
    """The tracker of a configuration; none, with a warning, where wandb is not installed.

    Raises:
        ValueError: no such tracker or mode, or ``online`` where nobody is logged in.
    """
    if config["name"] not in TRACKERS:
        raise ValueError(f"tracker: {config['name']!r}; choose from {list(TRACKERS)}")
    if config["name"] == "none":
        return NoTracker()
    if config["mode"] not in MODES:
        raise ValueError(f"tracker.mode: {config['mode']!r}; choose from {list(MODES)}")
    try:
        tracker = WandbTracker(config, group)
    except ImportError as error:
        warnings.warn(f"tracker wandb: {error}; nothing is mirrored", stacklevel=2)
        return NoTracker()
    if config["mode"] == "online" and not tracker.logged_in():
        raise ValueError(
            "tracker.mode = online: nobody is logged in; run 'wandb login', set WANDB_API_KEY, or "
            "choose offline and upload later with 'wandb sync'"
        )
    return tracker
