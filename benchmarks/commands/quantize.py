"""``juxtabit quantize``."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from benchmarks.commands.words import say
from benchmarks.records import escape


def quantize_command(options: argparse.Namespace, _: list[str]) -> int:
    """``juxtabit quantize``."""
    from benchmarks.deploy.quantizing import quantize
    from benchmarks.progress.line import line
    from benchmarks.progress.times import duration

    table, started = options.table, time.monotonic()
    if options.target in ("cpu", "gpu") and table is None:
        table = str(_measured(options))
    with line() as shows:
        done = quantize(
            options.model,
            options.images,
            options.out,
            weights=options.weights,
            target=options.target,
            table=table,
            metric=options.metric,
            like=options.like,
            ratio=options.ratio,
            limit=options.limit,
            max_drop=options.max_drop,
            method=options.method,
            protocol=options.protocol,
            objective=options.objective,
            bits=options.bits,
            classes=options.classes,
            seed=options.seed,
            device=options.device,
            progress=shows,
        )
    print(escape.lines(str(done)))
    print(f"in {duration(time.monotonic() - started)}")
    return 0


def _measured(options: argparse.Namespace) -> Path:
    """A latency table of the network on this machine, beside the file."""
    from benchmarks.deploy.latency import measured

    say(f"measuring latencies on this {options.target}: a minute or two; --table FILE reuses them")
    return measured(options.model, options.weights, options.images, options.target, options.out)
