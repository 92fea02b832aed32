"""``juxtabit verify``."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from benchmarks.commands.words import say
from benchmarks.progress.line import started
from benchmarks.progress.show import showing


def verify_command(options: argparse.Namespace, _: list[str]) -> int:
    """Verify records; 0 where there is no fault, 1 where there is any."""
    with started():
        from benchmarks.records.store import find_records
        from benchmarks.verification import shown
        from benchmarks.verification.board import against
        from benchmarks.verification.kept import keep_levels
        from benchmarks.verification.rerun import rerun
        from benchmarks.verification.verify import verify

    roots = [Path(root).expanduser() for root in options.records]
    board = Path(options.against).expanduser() if options.against else None
    before = find_records(board) if board else []
    report = verify(roots, trust=options.trust, submitted=board is not None)
    if options.rerun:
        with showing():
            rerun(
                report,
                options.rerun,
                options.seed,
                tolerance=options.tolerance,
                workers=options.workers,
            )
    sound = [case.record for case in report.cases if not case.faulty]
    compared = against(sound, before) if board else None
    if options.json:
        print(json.dumps(shown.as_json(report, compared), indent=1))
    elif options.markdown:
        print(shown.markdown(report, compared))
    else:
        print(shown.text(report))
        if compared is not None:
            _print_board(compared)
    if board is None and options.levels:
        for folder in keep_levels(report):
            say(f"levels kept beside {folder}")
    return 1 if report.faults else 0


def _print_board(compared: object) -> None:
    from benchmarks.report.formats import text
    from benchmarks.verification.board import Against

    assert isinstance(compared, Against)
    print(
        f"against the board: {compared.known} known cells ({compared.equal} equal), "
        f"{compared.new} new"
    )
    for block in (compared.drift, compared.ranks):
        if block.rows:
            print("\n".join(text.render(block, [0, len(block.headings) - 1])))
