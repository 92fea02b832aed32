"""CSV files with known columns, read row by row into checked entries."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

Entry = TypeVar("Entry")


def rows_of(
    path: Path, columns: tuple[str, ...], checked: Callable[[dict[Any, Any], str], Entry]
) -> list[Entry]:
    """The entries of a file, in its order.

    Args:
        columns: that it must have, in this order.
        checked: makes an entry of a row; it gets the place for messages, such as ``FILE, line 3``.

    Raises:
        OSError: the file cannot be read.
        ValueError: its columns are others, or ``checked`` refuses a row.
    """
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file)
        if tuple(rows.fieldnames or ()) != columns:
            raise ValueError(f"{path}: columns {rows.fieldnames}, not {list(columns)}")
        return [checked(row, f"{path}, line {rows.line_num}") for row in rows]
