"""Arguments that a command does not know, or takes no such value of: with what was meant."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from difflib import get_close_matches
from typing import NoReturn

OVERRIDES = ("run", "lut", "diagnose", "oracle")
"""The commands whose other arguments are Hydra's overrides, as in ``seed=1``."""

_CHOICE = re.compile(
    r"invalid choice: (['\"])(?P<given>.*?)\1 \(choose from (?P<known>.*)\)", re.DOTALL
)


class Parser(argparse.ArgumentParser):
    """A parser that says which choice was most likely meant."""

    def error(self, message: str) -> NoReturn:
        """End with the usage and a message (exit code 2)."""
        found = _CHOICE.search(message)
        if found is not None:
            known = re.findall(r"[\w-]+", found["known"])
            message += meant(found["given"], known)
        super().error(message)


def meant(name: str, known: Sequence[str]) -> str:
    """`` (did you mean X?)`` for the nearest of some names, or nothing."""
    near = get_close_matches(name, known, 1)
    return f" (did you mean {near[0]}?)" if near else ""


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
        hint = meant(option, known)
        if not hint and value and name in OVERRIDES:
            hint = f" (keys of the configuration have no dashes: {argument.lstrip('-')})"
        command.error(f"there is no option {option}{hint}; there are {', '.join(known)}")
