"""One fresh process that measures each of its units once."""

from __future__ import annotations

import importlib
import traceback
from multiprocessing.connection import Connection
from typing import Any

from benchmarks.lut.timing import Unsupported, median_of
from benchmarks.workers import stopping

IDLE = -1
"""Stands for the call that does nothing in place of a unit's number."""


def backend_of(device: str) -> Any:
    """The module that runs layers on a device."""
    return importlib.import_module(f"benchmarks.lut.{device}")


def work(
    connection: Connection,
    device: str,
    units: list[tuple[int, dict[str, Any], str]],
    seconds: float,
    threads: int,
) -> None:
    """Send ``(number, {"median": seconds, "operators": [...]} | {"unsupported": text})`` for each.

    Args:
        connection: where results go; at the end ``("end", facts)``, or ``("error", traceback)``.
        device: see `backend_of`.
        units: number, shape and arithmetic of each, in the order of measuring.
        seconds: of repetitions for each.
        threads: of the runtime.
    """
    stopping.listens()
    try:
        backend = backend_of(device)
        idle = backend.idle(threads)
        connection.send((IDLE, {"median": median_of(idle.sample, min(seconds, 0.2))}))
        for number, shape, arithmetic in units:
            connection.send((number, _measured(backend, shape, arithmetic, seconds, threads)))
        connection.send(("end", backend.facts()))
    except Exception:
        connection.send(("error", traceback.format_exc()))
    finally:
        connection.close()


def _measured(
    backend: Any, shape: dict[str, Any], arithmetic: str, seconds: float, threads: int
) -> dict[str, Any]:
    try:
        prepared = backend.prepare(shape, arithmetic, threads)
    except Unsupported as reason:
        return {"unsupported": str(reason)}
    return {
        "median": median_of(prepared.sample, seconds),
        "operators": list(prepared.operators),
    }
