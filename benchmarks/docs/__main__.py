"""Makes the pages in ``docs/frameworks`` and the README's picture.

python -m benchmarks.docs           # writes what has changed
python -m benchmarks.docs --check   # names what is not as it would be made
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.docs import claims
from benchmarks.docs.facts import ROOT, built_in
from benchmarks.docs.framework import framework_page
from benchmarks.docs.juxtaposed import juxtaposed
from benchmarks.docs.picture import picture
from benchmarks.records.store import write_text
from benchmarks.report.formats.reported import default_path, read

FOLDER = "docs/frameworks"


def made() -> dict[str, str]:
    """Every page and picture by its path from the project's folder."""
    found, said = built_in(), claims.read()
    path = default_path()
    reported = read(path) if path else []
    pages = {
        f"{FOLDER}/{name}.md": framework_page(name, cls, said, reported)
        for name, cls in found.items()
    }
    pages[f"{FOLDER}/README.md"] = juxtaposed(found, said)
    return {**pages, "docs/who_wins.svg": picture()}


def faults(root: Path = ROOT) -> list[str]:
    """Pages that are missing, are not as they would be made, or that nothing makes."""
    wanted = made()
    there = {path.relative_to(root).as_posix() for path in (root / FOLDER).glob("*")}
    stale = [
        path
        for path, text in wanted.items()
        if not (root / path).exists() or (root / path).read_text(encoding="utf-8") != text
    ]
    left = [f"{path} (nothing makes it)" for path in sorted(there - set(wanted))]
    return [f"{path} (not as made)" for path in stale] + left


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code: 1 if a page is not as it would be made."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.docs")
    parser.add_argument("--check", action="store_true", help="write nothing, name what differs")
    options = parser.parse_args(argv)
    if not options.check:
        (ROOT / FOLDER).mkdir(parents=True, exist_ok=True)
        for path, text in made().items():
            write_text(ROOT / path, text)
    found = faults()
    for fault in found:
        print(f"{fault}; python -m benchmarks.docs makes it", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
