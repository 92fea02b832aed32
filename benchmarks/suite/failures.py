"""Failed cells: what is told of an error, and a record that can be read whatever went wrong."""

from __future__ import annotations

import traceback

from benchmarks.records.record import CorruptRecord, Record
from benchmarks.suite.config import Cell
from frameworks import registry

LONGEST = 20_000
"""Letters of an error that are kept, half of them from its end."""


def explained(error: BaseException, cell: Cell) -> str:
    """The traceback of an error, its last line in plain words where the error has none."""
    lines = "".join(traceback.format_exception(error))
    if isinstance(error, SystemExit):
        lines += f"{ended(error, plugin_of(cell))}\n"
    elif not isinstance(error, Exception):
        kind = type(error).__name__
        lines += f"{plugin_of(cell)} raised {kind}: let it raise an error of its own\n"
    return shortened(lines)


def ended(error: SystemExit, who: str) -> str:
    """What to say of a plugin that ends its process."""
    code = ascii(error.code)[:60]
    return f"{who} called sys.exit({code}): let it raise an error, or return"


def plugin_of(cell: Cell) -> str:
    """A cell's framework with its file."""
    name = str(cell["framework"]["name"])
    try:
        module = registry.get(name).__module__
    except ValueError:
        return f"framework {name}"
    return f"framework {name} (module {module})"


def blames(error: BaseException, cell: Cell) -> bool:
    """Whether an error came through the code of the cell's framework, and that is a plugin."""
    package = registry.get(cell["framework"]["name"]).__module__.partition(".")[0]
    frames = (frame for frame, _ in traceback.walk_tb(error.__traceback__))
    names = {str(frame.f_globals.get("__name__")).partition(".")[0] for frame in frames}
    return package != "frameworks" and package in names


def shortened(error: str) -> str:
    """Text that a record can hold."""
    whole = error.encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")
    if len(whole) <= LONGEST:
        return whole
    half = LONGEST // 2
    return f"{whole[:half]}\n... ({len(whole) - LONGEST} letters left out) ...\n{whole[-half:]}"


def readable(record: Record) -> Record:
    """The record, or a failed one in its place that says why nobody could read it."""
    try:
        return Record.from_json(record.to_json(), plugin_of(record.cell))
    except (CorruptRecord, RecursionError) as fault:
        error = "\n".join(filter(None, (record.error, f"not fit for a record: {fault}")))
        return failed(record.key, record.cell, error)


def failed(key: str, cell: Cell, error: str) -> Record:
    """The record of a cell that failed."""
    return Record(key=key, cell=cell, status="failed", error=shortened(error))
