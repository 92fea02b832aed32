"""What ``juxtabit lut`` can be told, and whether it makes sense."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from omegaconf import MISSING as REQUIRED

from benchmarks.data.load import DatasetConfig
from benchmarks.models.build import ModelConfig

DEVICES = ("cpu", "gpu")
AGREEING = 5
"""A figure stands when so many fresh processes agree on it."""
LIMIT = 0.10
"""How far they may lie apart, relative to the best."""


@dataclass
class LutConfig:
    """The configuration of ``juxtabit lut``.

    Attributes:
        model: the network whose layers are measured.
        dataset: gives the size of its input and the number of classes.
        out: the file to write (JSON).
        device: ``cpu`` (ONNX Runtime) or ``gpu`` (torch).
        processes: fresh processes, each of which measures every layer in every class.
        extra: how many more may follow for the layers on which the first do not agree.
        seconds: of repetitions for a layer and class in one process, after a warm-up.
        threads: of ONNX Runtime for one layer.
        force: save although processes do not agree, or are fewer than five.
    """

    model: ModelConfig = REQUIRED
    dataset: DatasetConfig = REQUIRED
    out: str = ""
    device: str = "cpu"
    processes: int = 5
    extra: int = 5
    seconds: float = 0.2
    threads: int = 1
    force: bool = False


def check_options(options: LutConfig) -> None:
    """Refuse what cannot be measured or written, before anything is measured.

    Raises:
        ValueError: an option makes no sense; the message names it.
        OSError: the file cannot be written.
    """
    if options.device not in DEVICES:
        raise ValueError(f"device={options.device}: choose from {', '.join(DEVICES)}")
    if options.processes < (1 if options.force else AGREEING):
        raise ValueError(
            f"processes={options.processes}: at least {AGREEING}, as single processes can be "
            "slow throughout (force=true takes fewer)"
        )
    if options.extra < 0:
        raise ValueError(f"extra={options.extra}: must be at least 0")
    if not 0 < options.seconds <= 600:
        raise ValueError(f"seconds={options.seconds:g}: must be above 0 and at most 600")
    cores = os.cpu_count() or 1
    if not 1 <= options.threads <= cores:
        raise ValueError(f"threads={options.threads}: this machine has {cores}")
    _check_writable(options.out)


def _check_writable(out: str) -> None:
    if not out:
        raise ValueError("out: name the file to write, for instance out=my_device.json")
    path = Path(out).expanduser()
    if path.suffix.lower() != ".json":
        raise ValueError(f"out={out}: the table is JSON, so its name must end in .json")
    if path.is_dir():
        raise ValueError(f"out={out}: is a folder; name a file")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise OSError(f"out={out}: cannot be written ({error})") from error
