"""What decides a cell's numbers beside configuration, data and plugins: the code and its numerics.

Records, checkpoints and shared scores of another version, revision or numerics are never taken for
those that a run asks for. The processor is left out: results that are kept with a suite are to be
found again on another machine, and its environment stands in the record.
"""

from __future__ import annotations

from typing import Any

import torch

import benchmarks
from frameworks import kernels_in_force

REVISION = 2
"""Raised by every change that alters a number of a search, a training or a cost.

The golden cells (``tests/golden``) fail where a number changes under the same revision. A change
that alters none, such as a move of code, keeps it, and with it all records.
"""


def library() -> dict[str, Any]:
    """The project's version and the revision of its numbers."""
    return {"juxtabit": benchmarks.__version__, "revision": REVISION}


def numerics(threads: int | None = None) -> dict[str, Any]:
    """Threads, kernels, device type and torch's version without its patch level.

    Sums are split over threads, and the compiled kernels add up in another order than torch. A
    minor version of torch brings other kernels, initialisations and random streams; a patch
    mends faults.

    Args:
        threads: torch threads of the process that computes; None for those in force here.
    """
    return {
        "threads": torch.get_num_threads() if threads is None else threads,
        "kernels": kernels_in_force().partition(" ")[0],
        "device": torch.get_default_device().type,
        "torch": ".".join(torch.__version__.split(".")[:2]),
    }
