"""Tables of records, those that no table can show left out."""

from __future__ import annotations

import argparse
import contextlib
import gc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from benchmarks.records.record import Record
    from benchmarks.report.table import Table

T = TypeVar("T")


def guarded(records: list[Record], faults: list[str], use: Callable[[Table], T]) -> T:
    """Use the table of some records; those that no table can show are left out and named."""
    from benchmarks.report.table import build, showable

    try:
        return use(build(records))
    except OSError:
        raise
    except Exception:
        kept = showable(records, faults)
        if len(kept) in (0, len(records)):
            raise
        return use(build(kept))


def table_command(options: argparse.Namespace, _: list[str]) -> int:
    """``juxtabit table``."""
    from benchmarks.records.store import find_records

    faults: list[str] = []
    with no_collection():
        records = find_records(Path(options.records).expanduser(), faults)
        shown = guarded(records, faults, lambda table: _shown(table, options))
    print(shown)
    return 1 if faults else 0


def _shown(table: Table, options: argparse.Namespace) -> str:
    """The table in the format asked for; written in all of them where that is asked for, too."""
    from benchmarks.report.table import write

    if options.out:
        write(table, Path(options.out).expanduser())
    render = {
        "text": table.text,
        "markdown": table.markdown,
        "summary": table.summary,
        "csv": table.csv,
        "latex": table.latex,
        "html": table.html,
    }
    return render[options.format]()


def transfer_command(options: argparse.Namespace, _: list[str]) -> int:
    """``juxtabit transfer``."""
    from benchmarks.records.store import find_records
    from benchmarks.report.formats import markdown, text
    from benchmarks.studies.transfer import blocks

    faults: list[str] = []
    for block in blocks(find_records(Path(options.records).expanduser(), faults), faults):
        lines = (
            markdown.render(block)
            if options.format == "markdown"
            else [*text.render(block, [0]), *text.notes(block.notes), ""]
        )
        print("\n".join(lines))
    return 1 if faults else 0


@contextlib.contextmanager
def no_collection() -> Iterator[None]:
    """Garbage collection goes through all records again and again, and they hold no cycles."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
