"""``juxtabit quantize``."""

from __future__ import annotations

import argparse
import time

from benchmarks.progress.line import started
from benchmarks.records import escape

SAME = (
    *("weights", "target", "table", "metric", "like", "ratio", "limit", "max_drop", "method"),
    *("protocol", "objective", "bits", "classes", "seed", "device"),
)
"""Options that are arguments of `benchmarks.quantize` by the same names."""


def quantize_command(options: argparse.Namespace, _: list[str]) -> int:
    """``juxtabit quantize``."""
    began = time.monotonic()
    with started() as shows:
        from benchmarks.deploy.quantizing import quantize
        from benchmarks.progress.times import duration

        given = {key: getattr(options, key) for key in SAME}
        done = quantize(options.model, options.images, options.out, **given, progress=shows)
    print(escape.lines(str(done)))
    print(f"in {duration(time.monotonic() - began)}")
    return 0
