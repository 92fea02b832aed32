"""The board's rows as plain data: what the table and the interactive plots are drawn from."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from benchmarks.leaderboard.contents.board import Board, Panel
from benchmarks.leaderboard.contents.verification import together
from benchmarks.report.formats import flat
from benchmarks.report.numbers.comparisons import Difference
from benchmarks.report.numbers.groups import Group
from benchmarks.report.numbers.marks import signs
from benchmarks.report.numbers.rows import Row

_DIGITS = 6
"""Significant digits of what pages draw."""


def script(board: Board) -> str:
    """``data.js``: pages that are read from a file cannot fetch JSON, but can load a script."""
    rows = [row for n, panel in enumerate(board.panels) for row in _rows(board, n, panel)]
    data = {
        "panels": [_panel(board, panel) for panel in board.panels],
        "methods": {m.name: [m.slug, m.category, m.data] for m in board.methods.values()},
        "columns": list(rows[0]) if rows else [],
        "rows": [list(row.values()) for row in rows],
    }
    text = json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    return f"window.juxtabit={text};\n"


def _panel(board: Board, panel: Panel) -> dict[str, Any]:
    first = panel.first
    return {
        "slug": panel.slug,
        "path": "index.html" if panel is board.default else f"groups/{panel.slug}.html",
        **panel.parts,
        "metric": first.metric,
        "unit": first.unit,
        "shows": first.shows,
        "float": _short(first.float_accuracy),
    }


def _rows(board: Board, place: int, panel: Panel) -> Iterator[dict[str, Any]]:
    for group in panel.groups:
        for row in group.rows:
            yield {"panel": place, **_row(board, group, row)}


def _row(board: Board, group: Group, row: Row) -> dict[str, Any]:
    accuracy = row.accuracy
    verified = together(row.records, board.levels)
    return {
        "framework": row.name,
        "label": row.label,
        "signs": signs(row),
        "budget": group.budget,
        "rank": row.rank,
        "accuracy": _short(accuracy.mean if accuracy else None),
        "low": _short(accuracy.low if accuracy else None),
        "high": _short(accuracy.high if accuracy else None),
        "seeds": len(row.cells),
        "gain": _pair(row.gains.get("uniform")),
        "behind": _pair(row.gains.get("best")),
        "best": row.best,
        "cost": _short(group.cost(row)),
        "share": _short(group.share(row)),
        "weight": _short(row.mean("bits", "weight")),
        "act": _short(row.mean("bits", "act")),
        "policies": _short(row.mean("search", "policies")),
        "images": _short(row.images),
        "seconds": _short(row.mean("search", "seconds")),
        "status": row.status,
        "over": row.over,
        "level": verified.level,
        "verified": verified.text,
    }


def _pair(found: Difference | None) -> list[Any] | None:
    """Mean, half width of the interval, and whether it excludes zero."""
    if found is None:
        return None
    if found.low is None or found.high is None:
        return [_short(found.mean), None, False]
    return [_short(found.mean), _short((found.high - found.low) / 2), found.significant]


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.{_DIGITS}g}")


def measured(board: Board) -> list[dict[str, Any]]:
    """The rows of the downloads, as the table's CSV has them, with their verification."""
    return [
        {
            **{key: value for key, value in flat.measured(group, row).items() if key != "half"},
            "verification": together(row.records, board.levels).level,
            "verified": together(row.records, board.levels).when,
            "seeds": " ".join(str(cell.seed) for cell in row.cells),
            "keys": " ".join(record.key for record in row.records),
        }
        for group in board.groups
        for row in group.rows
    ]
