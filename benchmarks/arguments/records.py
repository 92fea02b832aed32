"""Arguments of what is made from records: tables, pictures, transfer, verification."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from typing import Any

from benchmarks.arguments.values import names, points, port, positive

Action = Callable[[argparse.Namespace, list[str]], int]
FORMATS = ("text", "markdown", "summary", "csv", "latex", "html")
PICTURES = ("pdf", "png", "svg")
SORTS = (
    *("rank", "accuracy", "gain", "share", "cost", "bits", "policies", "images", "time"),
    *("name", "category"),
)
"""As in `benchmarks.report.view`, which needs more than a parser does."""


def add_records(commands: Any, actions: Mapping[str, Action]) -> None:
    """Add the commands that read records."""
    table = commands.add_parser(
        "table",
        help="make the juxtaposition table from records",
        description="Make the table. Ranks, intervals and marks are those of all records, whatever "
        "part of the rows is shown.",
    )
    table.add_argument("records", nargs="?", default="results", help="folder or file of records")
    table.add_argument("--format", choices=FORMATS, default="text")
    table.add_argument("--out", help="write all formats into this folder, too")
    _add_view(table)
    table.set_defaults(action=actions["table"])
    _add_leaderboard(commands, actions["leaderboard"])
    plot = commands.add_parser(
        "plot",
        help="draw accuracy against cost, and learning, as PDF, PNG or SVG for papers",
        description="Draw the pictures of the table into files. PDF and PNG need typst: "
        "pip install 'juxtabit[plot]'.",
    )
    plot.add_argument("records", nargs="?", default="results", help="folder or file of records")
    plot.add_argument("--format", choices=PICTURES, default="pdf")
    plot.add_argument("--out", default="figures", help="folder to write into (default: figures)")
    plot.add_argument("--ppi", type=positive, default=300, help="pixels an inch of a PNG")
    _add_view(plot)
    plot.set_defaults(action=actions["plot"])
    transfer = commands.add_parser(
        "transfer", help="what policies cost on hardware that they were not searched for"
    )
    transfer.add_argument("records", nargs="?", default="results", help="folder or file of records")
    transfer.add_argument("--format", choices=("text", "markdown"), default="text")
    transfer.set_defaults(action=actions["transfer"])
    _add_verify(commands, actions["verify"])


def _add_leaderboard(commands: Any, action: Action) -> None:
    board = commands.add_parser(
        "leaderboard",
        help="build a static site from records: who wins, where, by how much, at what cost",
        description="Build a site that needs no server and no network, from any records. What "
        "'juxtabit verify' wrote beside them is shown as each row's level.",
    )
    board.add_argument(
        "records", nargs="*", default=["results"], help="folders or files of records"
    )
    board.add_argument("--out", default="site", help="the folder of the site (default: site)")
    board.add_argument(
        "--serve",
        nargs="?",
        type=port,
        const=8000,
        metavar="PORT",
        help="show it on this machine afterwards (default port: 8000; 0: any free one)",
    )
    board.add_argument("--open", action="store_true", help="with --serve: in a browser, too")
    board.add_argument("--title", default="Juxtabit leaderboard", help="of the site")
    board.set_defaults(action=action)


def _add_view(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--sort", choices=SORTS, default="rank", help="order of the rows (default: rank)")
    add("--top", type=positive, metavar="N", help="only the first N rows of each group")
    add(
        "--only",
        metavar="WHAT,...",
        type=names,
        default=[],
        help="only these categories or frameworks (patterns such as 'hawq*'), by commas",
    )


def _add_verify(commands: Any, action: Action) -> None:
    verify = commands.add_parser(
        "verify",
        help="check records: digests, keys, costs, policies, curves; rerun some",
        description="Check that records agree with themselves, with the code and with what their "
        "policies cost, and keep how far they were verified in verification.json beside them. "
        "A digest finds accidents, recomputed costs what does not agree, only a rerun a lie that "
        "does.",
    )
    add = verify.add_argument
    add("records", nargs="+", help="folders or files of records")
    add("--rerun", type=positive, metavar="N", help="compute N records again and compare")
    add("--seed", type=int, default=0, help="of the draw of those")
    add(
        "--tolerance",
        type=points,
        default=1.0,
        metavar="POINTS",
        help="by which accuracies may differ on another machine (default: 1)",
    )
    add("--workers", type=int, default=0, help="processes of --rerun; 0: one a core")
    add(
        "--against",
        metavar="FOLDER",
        help="compare with the records of a board; records of "
        "another version are faults then, and no levels are kept",
    )
    add(
        "--trust",
        action="store_true",
        help="read the folders of images that records name, and "
        "run the code in files that they name: only for your own",
    )
    add("--no-levels", dest="levels", action="store_false", help="write no verification.json")
    form = verify.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="all findings, as JSON")
    form.add_argument("--markdown", action="store_true", help="a comment for a pull request")
    verify.set_defaults(action=action)
