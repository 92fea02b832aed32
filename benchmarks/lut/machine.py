"""The machine that is measured on: what a reader of the table must know of it."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

from benchmarks.suite.identity import environment


def machine() -> dict[str, Any]:
    """Processor, its flags, cores and clock governor (None where the system does not say)."""
    known = environment()
    return {
        "processor": known["processor"],
        "architecture": platform.machine(),
        "flags": _flags(),
        "cores": known["cores"],
        "governor": _text("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "platform": known["platform"],
    }


def versions() -> dict[str, Any]:
    """Of Python and torch; the runtime's own are noted by the measuring processes."""
    known = environment()
    return {"python": known["python"], "torch": known["torch"]}


def load() -> list[float] | None:
    """Load averages of 1, 5 and 15 minutes."""
    return [round(x, 2) for x in os.getloadavg()] if hasattr(os, "getloadavg") else None


def _flags() -> list[str]:
    """What the processor can do, as Linux lists it (x86 ``flags``, Arm ``Features``)."""
    for line in (_text("/proc/cpuinfo") or "").splitlines():
        key, _, words = line.partition(":")
        if key.strip() in ("flags", "Features"):
            return words.split()
    return []


def _text(path: str) -> str | None:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return None
