"""Arguments that a command does not know, refused with what was most likely meant."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from difflib import get_close_matches

OVERRIDES = ("run", "lut", "diagnose", "oracle")
"""The commands whose other arguments are Hydra's overrides, as in ``seed=1``."""


def refuse_unknown(command: argparse.ArgumentParser, name: str, rest: Sequence[str]) -> None:
    """Say what a command knows, and end with its usage (exit code 2), if anything is unknown.

    Args:
        command: the parser of the command.
        name: of the command.
        rest: the arguments that the parser left.
    """
    for argument in rest:
        if name in OVERRIDES and not argument.startswith("-"):
            continue
        if not argument.startswith("-"):
            command.error(f"one argument too many: {argument}")
        known = sorted({"--help", *re.findall(r"--[a-z][\w-]*", command.format_usage())})
        option, _, value = argument.partition("=")
        near = get_close_matches(option, known, 1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        if not near and value and name in OVERRIDES:
            hint = f" (keys of the configuration have no dashes: {argument.lstrip('-')})"
        command.error(f"there is no option {option}{hint}; there are {', '.join(known)}")
