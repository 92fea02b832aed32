"""Tables as spreadsheets write them: comma, semicolon, tab or pipe separated, decimal commas.

The header line alone decides on the separator: it is the one that gives all columns; a first line
such as ``sep=;``, which is for spreadsheets, is passed over. A comma is a
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


def unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """An object of a JSON file, as ``object_pairs_hook``: Python would keep the last of two.

    Raises:
        ValueError: a key is there twice; the message names it.
    """
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"the key {name!r} is there twice in one object; leave one of them")
        found[name] = value
    return found


def separated(path: Path, text: str, columns: Sequence[str], number: str) -> Iterator[Line]:
    """The lines of a separated table, decimal commas of its numbers written as points.

    Args:
        path: named in messages.
        text: the file's text.
        columns: what the header must have; all but the first are numbers.
        number: the column that tells whether numbers have decimal commas.

    Raises:
        ValueError: columns are missing or there twice, a line has too many fields or one that is
            too long, or a number can be read in two ways; the message names file and line.
    """
    lines = text.splitlines()
    skipped = 1 if lines and re.fullmatch(r'"?sep=.?"?', lines[0], re.IGNORECASE) else 0
    lines = lines[skipped:]
    mark = _separator(path, lines[0] if lines else "", columns)
    rows = list(_rows(path, lines, mark, skipped))
    if mark != "," and _decimal_commas(rows, number):
        for _, row in rows:
            row.update({c: row[c].replace(",", ".") for c in columns[1:] if row[c]})
    return iter(rows)


def _rows(
    path: Path, lines: Sequence[str], mark: str, skipped: int
) -> Iterator[tuple[str, dict[str | Any, Any]]]:
    """The lines below the header; ``skipped`` others stood above it."""
    reader = csv.DictReader(lines[1:], _names(lines[0], mark), delimiter=mark,
                            skipinitialspace=True)  # fmt: skip
    line = skipped + 1
    while True:
        try:
            row = next(reader, None)
        except csv.Error as error:
            raise ValueError(f"{path} line {line + reader.reader.line_num}: {error}") from error
        if row is None:
            return
        where = f"{path} line {line + reader.line_num}"
        if None in row:
            cure = "; a number with a decimal comma needs another separator" if mark == "," else ""
            raise ValueError(f"{where}: more fields than the header has{cure}")
        yield where, row


def _names(header: str, mark: str) -> list[str]:
    names = next(csv.reader([header], delimiter=mark, skipinitialspace=True), [])
    return [name.strip() for name in names]


def _separator(path: Path, header: str, columns: Sequence[str]) -> str:
    """The separator of a header's line.

    Raises:
        ValueError: a column is missing, or is there twice.
    """

    def missing(mark: str) -> list[str]:
        try:
            return sorted(set(columns) - set(_names(header, mark)))
        except csv.Error:  # a field of more letters than any name has
            return sorted(columns)

    best = min(SEPARATORS, key=lambda mark: len(missing(mark)))
    if missing(best):
        raise ValueError(
            f"{path}: missing columns {missing(best)}; expected {list(columns)}, separated by "
            f"one of {', '.join(SEPARATORS.values())}"
        )
    names = _names(header, best)
    if twice := sorted({name for name in names if name and names.count(name) > 1}):
        raise ValueError(f"{path}: the header has the columns {twice} twice; leave one of each")
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
