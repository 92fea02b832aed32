"""Tables of records, those that no table can show left out."""

from __future__ import annotations

import argparse
import contextlib
import gc
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from benchmarks.records import escape

if TYPE_CHECKING:
    from benchmarks.records.record import Record
    from benchmarks.report.table import Table

T = TypeVar("T")


def guarded(
    records: list[Record],
    faults: list[str],
    use: Callable[[Table], T],
    levels: Mapping[str, str] | None = None,
) -> T:
    """Use the table of some records; those that no table can show are left out and named.

    ``levels`` say how far they were verified, by key.
    """
    from benchmarks.report.table import build, showable
    from benchmarks.report.view import BadView

    try:
        return use(build(records, levels=levels))
    except (OSError, BadView):
        raise
    except Exception:
        kept = showable(records, faults)
        if len(kept) in (0, len(records)):
            raise
        return use(build(kept, levels=levels))


def table_command(options: argparse.Namespace, _: list[str]) -> int:
    """``juxtabit table``."""
    return _read(options, lambda table: _shown(table, options))


def plot_command(options: argparse.Namespace, _: list[str]) -> int:
    """``juxtabit plot``."""
    return _read(options, lambda table: _drawn(table, options))


def _read(options: argparse.Namespace, use: Callable[[Table], str]) -> int:
    """Print what is made of the table that is asked for; the exit code."""
    from benchmarks.records.levels import levels_below
    from benchmarks.records.store import find_records
    from benchmarks.report.view import View

    faults: list[str] = []
    view = View(options.sort, options.top, options.only)
    with no_collection():
        root = Path(options.records).expanduser()
        records = find_records(root, faults)
        levels = {key: level.level for key, level in levels_below(root, faults).items()}
        shown = guarded(records, faults, lambda table: use(view.of(table)), levels)
    print(shown)
    return 1 if faults else 0


def _drawn(table: Table, options: argparse.Namespace) -> str:
    """Draw the table's pictures; the files, one a line."""
    from benchmarks.report.formats.files import write_pictures

    folder = Path(options.out).expanduser()
    paths = write_pictures(table.pictures(), folder, options.format, options.ppi)
    return "\n".join(escape.lines(str(path)) for path in paths)


def _shown(table: Table, options: argparse.Namespace) -> str:
    """The table in the format asked for; written in all of them where that is asked for, too."""
    from benchmarks.report.formats.text import WIDTH
    from benchmarks.report.table import write

    if options.out:
        write(table, Path(options.out).expanduser())
    width = shutil.get_terminal_size((WIDTH, 24)).columns if sys.stdout.isatty() else WIDTH
    render = {
        "text": lambda: table.text(width),
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
