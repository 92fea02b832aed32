"""``juxtabit leaderboard``."""

from __future__ import annotations

import argparse
import webbrowser
from pathlib import Path

from benchmarks.commands.tables import guarded, no_collection
from benchmarks.records import escape
from benchmarks.workers import stopping


def leaderboard_command(options: argparse.Namespace, _: list[str]) -> int:
    """Build the site, and show it if that is asked for; 1 if something was left out."""
    from benchmarks.docs import claims
    from benchmarks.leaderboard.contents.board import board
    from benchmarks.leaderboard.site import files, usable, write
    from benchmarks.records.levels import levels_below
    from benchmarks.records.store import find_records

    out = Path(options.out).expanduser()
    usable(out)
    roots = [Path(root).expanduser() for root in options.records]
    faults: list[str] = []
    with no_collection():
        records = {r.key: r for root in roots for r in find_records(root, faults)}
        levels = {k: v for root in roots for k, v in levels_below(root, faults).items()}
        said = claims.read() if claims.FILE.is_file() else []
        content = guarded(
            list(records.values()),
            faults,
            lambda table: files(board(options.title, table, said, levels)),
        )
    write(content, out)
    size = sum(map(len, content.values())) / 2**20
    print(f"Site: {escape.lines(str(out))} ({len(content)} files, {size:.1f} MB)")
    if options.serve is not None:
        _serve(out, options.serve, options.open)
    return 1 if faults else 0


def _serve(folder: Path, port: int, show: bool) -> None:
    """Serve until Ctrl-C."""
    from benchmarks.leaderboard.serve import server

    with server(folder, port) as serving:
        address = f"http://{serving.server_address[0]!s}:{serving.server_address[1]}/"
        stopping.current().kept = lambda: f"stopped; the site stays in {folder}"
        print(f"Shown at {address} (Ctrl-C ends it)", flush=True)
        if show:
            webbrowser.open(address)
        serving.serve_forever()
