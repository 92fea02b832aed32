"""The downloads: rows as CSV, JSON and parquet, and the frameworks' papers as BibTeX."""

from __future__ import annotations

import gzip
import importlib.util
import io
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.leaderboard.contents.board import Board
from benchmarks.leaderboard.contents.flat import measured
from benchmarks.leaderboard.contents.methods import Method
from benchmarks.records import escape
from benchmarks.records.store import finite

FOLDER = "downloads"
DIGITS = 6
"""Significant digits: as many as any measurement here has."""
NO_PYARROW = "not made, as pyarrow is not installed: pip install 'juxtabit[parquet]'"


def downloads(board: Board) -> dict[str, tuple[str, bytes]]:
    """What each file is and its content, by its path; no content where it cannot be made."""
    rows = [{key: _rounded(value) for key, value in row.items()} for row in measured(board)]
    known = [key for row in rows for key, value in row.items() if value not in (None, "")]
    columns = sorted(set(known), key=list(dict.fromkeys(k for row in rows for k in row)).index)
    table = {column: [row.get(column) for row in rows] for column in columns}
    packed = parquet(table)
    files = {
        "juxtabit.csv": ("a row a framework and group", _csv(table, len(rows))),
        "juxtabit.json.gz": (
            "the same, by column: pandas.DataFrame(json.load(gzip.open(path)))",
            packed_json(table),
        ),
        "juxtabit.parquet": (
            "the same, typed: pandas.read_parquet" if packed else NO_PYARROW,
            packed,
        ),
        "frameworks.bib": (
            "the papers as BibTeX; authors are not on the cards",
            bibtex(board.methods).encode(),
        ),
    }
    return {f"{FOLDER}/{name}": found for name, found in files.items()}


def _rounded(value: Any) -> Any:
    """A number with `DIGITS` significant digits."""
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value


def _csv(table: Mapping[str, Sequence[Any]], count: int) -> bytes:
    import csv

    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(map(escape.csv, table))
    for n in range(count):
        writer.writerow([escape.csv(values[n]) for values in table.values()])
    return file.getvalue().encode()


def packed_json(table: Mapping[str, Sequence[Any]]) -> bytes:
    """JSON of some columns, compressed: it repeats what the CSV has. Equal data, equal bytes."""
    plain = json.dumps(finite(dict(table)), separators=(",", ":"), allow_nan=False)
    return gzip.compress(plain.encode(), 9, mtime=0)


def parquet(table: Mapping[str, Sequence[Any]]) -> bytes:
    """A parquet file of some columns; empty without pyarrow, which is an extra."""
    if importlib.util.find_spec("pyarrow") is None:
        return b""
    import pandas

    file = io.BytesIO()
    pandas.DataFrame(dict(table)).to_parquet(
        file, engine="pyarrow", index=False, compression="zstd", compression_level=19,
        write_statistics=False, use_dictionary=False,  # a few hundred rows: more than they save
    )  # fmt: skip
    return file.getvalue()


def bibtex(methods: Mapping[str, Method]) -> str:
    """An entry for each framework that has a paper.

    Cards name no authors, and none are made up: they are left to be filled in.
    """
    return "\n".join(_entry(m) for m in methods.values() if m.card and m.category != "baseline")


def _entry(method: Method) -> str:
    card = method.card
    arxiv = re.sub(r"[^\w./-]", "", str(card.get("arxiv", "")))
    fields = {
        "title": f"{{{escape.latex(str(card.get('title', '')))}}}",
        "year": str(card.get("year") or ""),
        "howpublished": escape.latex(str(card.get("venue", ""))),
        "eprint": arxiv,
        "archiveprefix": "arXiv" * bool(arxiv),
        "url": f"https://arxiv.org/abs/{arxiv}" if arxiv else "",
    }
    lines = [f"  {name} = {{{value}}}," for name, value in fields.items() if value.strip("{}")]
    return "\n".join([f"@misc{{{method.slug}-{card.get('year') or 'n.d.'},", *lines, "}", ""])
