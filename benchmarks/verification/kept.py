"""The levels of verified records, kept beside them."""

from __future__ import annotations

import time
from collections import defaultdict
from pathlib import Path

import benchmarks
from benchmarks.records.levels import LEVELS, Level, file_digest, read_levels, write_levels
from benchmarks.verification.verify import Report


def keep_levels(report: Report) -> list[Path]:
    """Write the levels of all records without a fault; those with one lose theirs.

    A level that was higher holds on while the file's content is the same.

    Returns:
        the folders of records.

    Raises:
        ValueError: a file of levels that is there cannot be read.
        OSError: it cannot be written.
    """
    by_folder: dict[Path, dict[str, Level]] = defaultdict(dict)
    today = time.strftime("%Y-%m-%d", time.gmtime())
    for case in report.cases:
        found = by_folder[case.path.parent]
        if case.level is not None:
            content = file_digest(case.path)
            found[case.record.key] = Level(case.level, today, benchmarks.__version__, content)
    looked_at = {case.path for case in report.cases}
    for folder, levels in by_folder.items():
        for key, before in read_levels(folder).items():
            path = folder / f"{key}.json"
            untouched = path not in looked_at and path.is_file()
            if untouched or (key in levels and _holds(before, levels[key])):
                levels[key] = before
        write_levels(folder, levels)
    return list(by_folder)


def _holds(before: Level, now: Level) -> bool:
    higher = LEVELS.index(before.level) > LEVELS.index(now.level)
    return higher and before.sha256 == now.sha256
