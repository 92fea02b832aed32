"""The statements of the README and the guides, with the numbers of the records.

python -m benchmarks.studies.statements           # each statement, its expressions and their values
python -m benchmarks.studies.statements --check   # only what is wrong
python -m benchmarks.studies.statements --write   # puts the records' numbers into the pages
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.records.store import write_text
from benchmarks.studies.statements.page import FILE, Pages, read


def shown(page: Pages) -> str:
    """All statements with their numbers."""
    lines = []
    for statement in page.statements:
        lines.append(statement.text)
        lines += [f"    {text} = {value!r}" for text, value, _ in statement.numbers()]
        lines += [f"    {text}: {statement.value(text)}" for text in statement.holds]
    for first, folder in page.tables:
        lines.append(f"{first} ...\n    juxtabit table {folder} --format summary")
    lines += [f"UNTIED {phrase}\n    {why}" for phrase, why in page.untied]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code: 1 if a page says something else than the records."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.studies.statements")
    parser.add_argument("file", nargs="?", type=Path, default=FILE, help="the statements")
    parser.add_argument("--check", action="store_true", help="print only what is wrong")
    parser.add_argument("--write", action="store_true", help="bring the page up to date")
    options = parser.parse_args(argv)
    page = read(options.file)
    if options.write:
        for path, text in page.written().items():
            write_text(path, text)
        page = read(options.file)
    if not options.check:
        print(shown(page))
    faults = page.faults()
    for fault in faults:
        print(f"{options.file.name}: {fault}", file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
