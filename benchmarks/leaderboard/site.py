"""The whole site: every file by its path, and writing it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path, PurePosixPath

from benchmarks.leaderboard.contents.board import Board
from benchmarks.leaderboard.contents.downloads import downloads
from benchmarks.leaderboard.contents.flat import script
from benchmarks.leaderboard.pages.explore import pareto_page, table_page
from benchmarks.leaderboard.pages.framework import framework_page
from benchmarks.leaderboard.pages.lists import about_page, frameworks_page, groups_page
from benchmarks.leaderboard.pages.others import data_page, published_page
from benchmarks.leaderboard.pages.overview import overviews
from benchmarks.leaderboard.pages.shell import Page, dressed
from benchmarks.records.store import read_json, write_bytes

ASSETS = (
    "site.css", "theme.js", "chooser.js", "table.js", "pareto.js",
    "vendor/plot.min.js", "vendor/LICENSES.txt",
)  # fmt: skip
SHARED = ("page.css", "page.js")
"""Of the one-page table, which have the look of its pictures and the sorting of its tables."""
LEDGER = ".juxtabit-site.json"
"""The files of the last time, so that those that are no longer made go away, and no others."""
SINGLE: tuple[Callable[[Board], Page | None], ...] = (
    groups_page, table_page, pareto_page, frameworks_page, published_page, about_page,
)  # fmt: skip
"""Pages of which there is one; None where there is nothing to show, and then no link to it."""


def files(board: Board) -> dict[str, bytes]:
    """Every file of the site by its path, which is made of the slugs and never of a name."""
    offered = downloads(board)
    listed = {path: (says, len(content)) for path, (says, content) in offered.items()}
    pages: list[Page] = [
        *overviews(board),
        *(page for make in SINGLE if (page := make(board)) is not None),
        *(framework_page(board, method) for method in board.methods.values()),
        data_page(board, listed),
    ]
    there = {page.path for page in pages}
    found = {page.path: dressed(page, board, there).encode() for page in pages}
    found |= {path: content for path, (_, content) in offered.items() if content}
    found["assets/data.js"] = script(board).encode()
    found |= {f"assets/{name}": _asset(name) for name in (*ASSETS, *SHARED)}
    return {**found, ".nojekyll": b""}


@lru_cache
def _asset(name: str) -> bytes:
    here = Path(__file__).parent
    shared = here.parent / "report" / "formats"
    return ((shared if name in SHARED else here / "assets") / name).read_bytes()


def usable(folder: Path) -> None:
    """Find out, before anything is made, that a folder may hold the site.

    Raises:
        ValueError: it is a file, or holds what this command has not made.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--out {folder}: is a file, not a folder")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / LEDGER).is_file():
        raise ValueError(
            f"--out {folder}: holds files that 'juxtabit leaderboard' has not made; name an empty "
            "or a new folder"
        )


def write(content: Mapping[str, bytes], folder: Path) -> None:
    """Write a site, and remove what an earlier one left that is made no more.

    Raises:
        ValueError: see `usable`.
        OSError: the folder cannot be written.
    """
    usable(folder)
    for path in set(_earlier(folder)) - set(content):
        (folder / path).unlink(missing_ok=True)
    for path, data in content.items():
        write_bytes(folder / path, data)
    write_bytes(folder / LEDGER, json.dumps(sorted(content), indent=1).encode() + b"\n")


def _earlier(folder: Path) -> Sequence[str]:
    """The files of the last time, without any that would lie outside the folder."""
    if not (folder / LEDGER).is_file():
        return []
    said = read_json(folder / LEDGER)
    named = [str(path) for path in said] if isinstance(said, list) else []
    return [
        path
        for path in named
        if not PurePosixPath(path).is_absolute() and ".." not in PurePosixPath(path).parts
    ]
