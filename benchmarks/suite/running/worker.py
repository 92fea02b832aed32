"""What a worker does: computes one cell after the other, and prints into files."""

from __future__ import annotations

import faulthandler
import multiprocessing
import socket
import sys
import warnings
from pathlib import Path

import torch

from benchmarks.fingerprints.numerics import Place, compute_on
from benchmarks.records import escape
from benchmarks.records.cache import WAITING
from benchmarks.records.record import Record
from benchmarks.suite import cell as cells_module
from benchmarks.suite.config import Cell
from benchmarks.suite.failures import explained, failed
from benchmarks.suite.running.log import part
from benchmarks.workers import stopping
from benchmarks.workers.capture import printed_to
from benchmarks.workers.memory import give_back, keep_freed_memory
from benchmarks.workers.wire import tell

LONGEST_STAGE = 200
"""Letters of what a cell says of its progress."""

_end: socket.socket | None = None


def begin(threads: int, where: Place, end: socket.socket | None) -> None:
    """What a worker does first.

    Args:
        threads: of torch.
        where: it computes.
        end: where it tells of its progress.
    """
    global _end
    _end = end
    stopping.subordinate()
    keep_freed_memory()
    # What a warning quotes may hold codes that steer the terminal.
    warnings.showwarning = escape.show_warning
    # Lines that a plugin has printed before it ends its process are not to be lost.
    getattr(sys.stdout, "reconfigure", lambda **_: None)(line_buffering=True)
    faulthandler.enable()
    torch.set_num_threads(threads)
    compute_on(where)


def work(key: str, cell: Cell, folder: Path) -> Record:
    """The record of a cell; the parts that others share are kept in the run's folder."""
    waiting = False

    def progress(done: int, total: int, text: str) -> None:
        nonlocal waiting
        # Whether a cell waits decides on the time that it has.
        before, waiting = waiting, text == WAITING
        if _end is not None:
            stage = str(text)[:LONGEST_STAGE]
            tell(_end, key, int(done), int(total), stage, surely=waiting != before)

    run = multiprocessing.parent_process()
    with printed_to(part(folder, run.pid if run and run.pid else 0, key)):
        try:
            progress(0, 1, "loading")
            return cells_module.compute(cell, key, progress, folder / "scores")
        except Exception as error:
            return failed(key, cell, explained(error, cell))
        finally:
            give_back()
