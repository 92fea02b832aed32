"""What decides a cell's numbers beside configuration, data and plugins: the code and its numerics.

Records, checkpoints and shared scores of another version, revision or numerics are never taken for
those that a run asks for. The processor is left out: results that are kept with a suite are to be
found again on another machine, and its environment stands in the record.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

import benchmarks
from frameworks import kernels_in_force, train_in

REVISION = 2
"""Raised by every change that alters a number of a search, a training or a cost.

The golden cells (``tests/golden``) fail where a number changes under the same revision. A change
that alters none, such as a move of code, keeps it, and with it all records.
"""


DEVICES = ("auto", "cpu", "cuda", "cuda:N", "mps")
PRECISIONS = {"off": None, "bf16": torch.bfloat16}
"""What training steps multiply in: float32, or torch's autocast to bfloat16."""


@dataclass(frozen=True)
class Place:
    """Where a process computes.

    Attributes:
        device: of networks and data.
        amp: one of `PRECISIONS`.
    """

    device: torch.device
    amp: str = "off"


_place = Place(torch.device("cpu"))


def place() -> Place:
    """Where this process computes; the CPU, in float32, unless `compute_on` said otherwise."""
    return _place


def compute_on(chosen: Place) -> None:
    """Let this process compute in a place."""
    global _place
    _place = chosen
    train_in(PRECISIONS[chosen.amp])


@contextmanager
def computing_in(chosen: Place) -> Iterator[None]:
    """Within the context this process computes in a place."""
    before = place()
    compute_on(chosen)
    try:
        yield
    finally:
        compute_on(before)


def place_named(device: Any, amp: Any = "off") -> Place:
    """The place that configuration names; ``auto`` is the accelerator that is there, or the CPU.

    Raises:
        ValueError: there is no such device here, or no such precision; the message lists them.
    """
    if isinstance(amp, bool):  # as YAML reads on and off
        amp = "bf16" if amp else "off"
    if not isinstance(amp, str) or amp not in PRECISIONS:
        raise ValueError(f"amp = {amp!a}: choose from {', '.join(PRECISIONS)}")
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not isinstance(device, str | torch.device):
        raise ValueError(f"device = {device!a}: choose from {', '.join(DEVICES)}")
    device = str(device)
    if device == "auto":
        device = next((kind for kind, is_there in there.items() if is_there), "cpu")
    kind, _, number = device.partition(":")
    if kind not in ("cpu", *there) or (":" in device and not (kind == "cuda" and number.isdigit())):
        raise ValueError(f"device = {device!a}: choose from {', '.join(DEVICES)}")
    if kind != "cpu" and not there[kind]:
        raise ValueError(f"device = {device}: torch finds no {kind} here; choose cpu, or auto")
    if number and int(number) >= torch.cuda.device_count():
        raise ValueError(f"device = {device}: torch finds {torch.cuda.device_count()} of them")
    return Place(torch.device(device), amp)


def library() -> dict[str, Any]:
    """The project's version and the revision of its numbers."""
    return {"juxtabit": benchmarks.__version__, "revision": REVISION}


def numerics(threads: int | None = None) -> dict[str, Any]:
    """Threads, kernels, device type, precision and torch's version without its patch level.

    Sums are split over threads, and the compiled kernels add up in another order than torch. A
    minor version of torch brings other kernels, initialisations and random streams; a patch
    mends faults.

    Args:
        threads: torch threads of the process that computes; None for those in force here.
    """
    found = {
        "threads": torch.get_num_threads() if threads is None else threads,
        "kernels": kernels_in_force().partition(" ")[0],
        "device": _place.device.type,
        "torch": ".".join(torch.__version__.split(".")[:2]),
    }
    return found if _place.amp == "off" else {**found, "amp": _place.amp}
