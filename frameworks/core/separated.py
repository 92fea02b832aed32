"""Tables as spreadsheets write them: comma, semicolon, tab or pipe separated, decimal commas.

The header line alone decides on the separator: it is the one that gives all columns. A comma is a
decimal comma only where it separates nothing, and only where it cannot be one of thousands.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "pipe"}
SUFFIXES = (".csv", ".tsv", ".txt")
Line = tuple[str, Mapping[str, Any]]
"""Where a line stands, and its fields."""


def read_text(path: Path) -> str:
    """The text of a file in UTF-8, with or without a byte order mark.

    Raises:
        ValueError: it is in another encoding; the message names it where it can be told.
    """
    raw = path.read_bytes()
    if raw[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" in raw:
        raise ValueError(
            f"{path}: not a readable table: it is UTF-16 or binary; save it as UTF-8 "
            "(in a spreadsheet: 'CSV UTF-8')"
        )
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not a readable table: {error}; save it as UTF-8") from error


def separated(path: Path, text: str, columns: Sequence[str], number: str) -> Iterator[Line]:
    """The lines of a separated table, decimal commas of its numbers written as points.

    Args:
        path: named in messages.
        text: the file's text.
        columns: what the header must have; all but the first are numbers.
        number: the column that tells whether numbers have decimal commas.

    Raises:
        ValueError: columns are missing, a line has too many fields, or a number can be read in two
            ways; the message names file and line.
    """
    lines = text.splitlines()
    mark = _separator(path, lines[0] if lines else "", columns)
    reader = csv.DictReader(lines, delimiter=mark, skipinitialspace=True)
    rows: list[tuple[str, dict[str | Any, Any]]] = []
    for row in reader:
        where = f"{path} line {reader.line_num}"
        if None in row:
            cure = "; a number with a decimal comma needs another separator" if mark == "," else ""
            raise ValueError(f"{where}: more fields than the header has{cure}")
        rows.append((where, row))
    if mark != "," and _decimal_commas(rows, number):
        for _, row in rows:
            row.update({c: row[c].replace(",", ".") for c in columns[1:] if row[c]})
    return iter(rows)


def _separator(path: Path, header: str, columns: Sequence[str]) -> str:
    def missing(mark: str) -> list[str]:
        names = next(csv.reader([header], delimiter=mark, skipinitialspace=True), [])
        return sorted(set(columns) - set(names))

    best = min(SEPARATORS, key=lambda mark: len(missing(mark)))
    if missing(best):
        raise ValueError(
            f"{path}: missing columns {missing(best)}; expected {list(columns)}, separated by "
            f"one of {', '.join(SEPARATORS.values())}"
        )
    return best


def _decimal_commas(rows: Sequence[Line], column: str) -> bool:
    """Whether a column's numbers have decimal commas.

    Raises:
        ValueError: some have commas and others points, or all commas may be those of thousands.
    """
    found = [(where, row[column] or "") for where, row in rows]
    commas = [(where, value) for where, value in found if "," in value]
    if not commas:
        return False
    points = [(where, value) for where, value in found if "." in value]
    if points:
        (where, comma), (_, point) = commas[0], points[0]
        raise ValueError(f"{where}: {column} = {comma!r}, but {point!r} elsewhere; use points only")
    if all(re.fullmatch(r"[1-9]\d{0,2}(,\d{3})+", value) for _, value in commas):
        where, value = commas[0]
        raise ValueError(
            f"{where}: {column} = {value!r} may have a decimal comma or one of thousands; "
            "write decimal points and no commas"
        )
    return True
