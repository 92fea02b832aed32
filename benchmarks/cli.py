"""The command ``juxtabit``."""

from __future__ import annotations

import os
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence

from benchmarks.arguments.parser import make_parser
from benchmarks.arguments.unknown import refuse_unknown
from benchmarks.commands.completion import complete_command, completion_command
from benchmarks.commands.faults import explained
from benchmarks.commands.leaderboard import leaderboard_command
from benchmarks.commands.lists import frameworks_command, list_command
from benchmarks.commands.oracle import oracle_command
from benchmarks.commands.others import diagnose_command, export_command, lut_command, new_command
from benchmarks.commands.quantize import quantize_command
from benchmarks.commands.runs import run_command
from benchmarks.commands.tables import plot_command, table_command, transfer_command
from benchmarks.commands.verify import verify_command
from benchmarks.commands.words import say
from benchmarks.records import escape
from benchmarks.workers import stopping

USAGE = 2
"""Exit code of a request that cannot be carried out as it stands."""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code.

    0: all went well; 1: a cell failed, a record is corrupt or an exported file does not compute
    what it should, the rest is there; 2: the request cannot be carried out as it stands.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    warnings.showwarning = escape.show_warning
    parser = make_parser(
        {
            "run": run_command,
            "table": table_command,
            "plot": plot_command,
            "leaderboard": leaderboard_command,
            "transfer": transfer_command,
            "verify": verify_command,
            "export": export_command,
            "lut": lut_command,
            "quantize": quantize_command,
            "diagnose": diagnose_command,
            "new": new_command,
            "oracle": oracle_command,
            "frameworks": frameworks_command,
            "list": list_command,
            "completion": completion_command,
            "complete": complete_command,
        }
    )
    options, rest = parser.parse_known_args(arguments)
    refuse_unknown(options.own, options.command, rest)
    with stopping.Stop() as stop:
        try:
            return _answered(lambda: int(options.action(options, rest)), stop)
        except KeyboardInterrupt:
            return stop.finish()


def _answered(action: Callable[[], int], stop: stopping.Stop) -> int:
    """The exit code of an action, whatever error it ends with."""
    try:
        return action()
    except KeyboardInterrupt:
        raise
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except SystemExit as ended:
        _unless_stopped(stop)
        code = ended.code if isinstance(ended.code, int) and ended.code > 0 else USAGE
        fault = f"a library or plugin ended the command with sys.exit({ended.code!a})"
        say(f"juxtabit: {fault} (JUXTABIT_DEBUG=1 shows where)")
        if os.environ.get("JUXTABIT_DEBUG"):
            traceback.print_exception(ended)
        return code
    except Exception as error:
        _unless_stopped(stop)
        if os.environ.get("JUXTABIT_DEBUG"):
            raise
        say(f"juxtabit: {explained(error)}")
        return USAGE


def _unless_stopped(stop: stopping.Stop) -> None:
    """What is raised while the command is being stopped is a part of that."""
    if stop.number is not None:
        raise stopping.Stopped


if __name__ == "__main__":
    sys.exit(main())
