"""Mirrors of the records: nothing, or Weights & Biases (offline by default)."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from benchmarks.records.record import Record
from benchmarks.suite.progress import title

TRACKERS = ("none", "wandb")


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
    """One W&B run for each cell; its id is the cell's key, so that syncing twice is harmless."""

    def __init__(self, config: dict[str, Any], group: str) -> None:
        import wandb

        self._wandb = wandb
        self.group = group
        self.config = config
        Path(config["folder"]).expanduser().mkdir(parents=True, exist_ok=True)

    def _start(self, name: str, identity: str, job: str, config: dict[str, Any]) -> Any:
        return self._wandb.init(
            project=self.config["project"],
            mode=self.config["mode"],
            dir=str(Path(self.config["folder"]).expanduser()),
            id=identity,
            name=name,
            group=self.group,
            job_type=job,
            config=config,
            resume="allow" if self.config["mode"] == "online" else None,
            reinit="finish_previous",
            settings=self._wandb.Settings(silent=True, console="off"),
        )

    def record(self, record: Record) -> None:
        """Log a cell's curve and summary."""
        run = self._start(title(record.cell), record.key, "search", record.cell)
        for point in record.curve:
            run.log(point)
        flat = {
            "status": record.status,
            **{f"accuracy/{k}": v for k, v in record.accuracy.items()},
            **{f"cost/{k}": v for k, v in record.costs.items()},
            **{f"search/{k}": v for k, v in record.search.items() if not isinstance(v, dict)},
        }
        run.summary.update({k: v for k, v in flat.items() if v is not None})
        run.finish(exit_code=1 if record.status == "failed" else 0)

    def table(self, folder: Path) -> None:
        """Log the table's files as an artifact."""
        run = self._start(f"table {self.group}", f"table-{self.group}", "table", {})
        artifact = self._wandb.Artifact(f"juxtaposition-{self.group}", type="result")
        for path in sorted(folder.glob("juxtaposition.*")):
            artifact.add_file(str(path))
        run.log_artifact(artifact)
        run.finish()


def make_tracker(config: dict[str, Any], group: str) -> Tracker:
    """The tracker of a configuration.

    Raises:
        ValueError: no such tracker.
    """
    if config["name"] not in TRACKERS:
        raise ValueError(f"tracker: {config['name']!r}; choose from {list(TRACKERS)}")
    return WandbTracker(config, group) if config["name"] == "wandb" else NoTracker()
