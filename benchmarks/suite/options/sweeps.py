"""Sweeps: the jobs of overrides with comma lists, and hyper-parameters of single frameworks."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from difflib import get_close_matches

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser

from benchmarks.suite.options.overrides import suite_file, unquoted

DEFAULT = "uniform"
"""The framework of a configuration that names none."""


def jobs(overrides: Sequence[str], frameworks: Collection[str]) -> list[list[str]]:
    """The overrides of each job of a sweep, in Hydra's order, equal ones once.

    ``framework.NAME.KEY=VALUE`` sets a hyper-parameter in the jobs of that framework alone.

    Args:
        overrides: with comma lists, ``range(...)``, ``choice(...)`` and ``glob(...)``.
        frameworks: all names that there are.

    Raises:
        OverrideParseException: an override is none.
    """
    files = [text for text in overrides if suite_file([text])[1] is not None]
    parsed = OverridesParser.create().parse_overrides(
        unquoted(text for text in overrides if text not in files)
    )
    (batch,) = BasicSweeper.split_arguments(parsed, max_batch_size=None)
    found = (for_framework([*files, *map(str, job)], frameworks) for job in batch)
    return [list(job) for job in dict.fromkeys(map(tuple, found))]


def refuse_mistyped(
    overrides: Sequence[str], frameworks: Collection[str], keys: Collection[str]
) -> None:
    """Refuse hyper-parameters of frameworks that there are not.

    Args:
        overrides: those of ``framework.NAME.KEY=VALUE`` are looked at.
        frameworks: all names that there are.
        keys: all hyper-parameters: one may have parts of its own.

    Raises:
        ValueError: a name is none; the message says which one is near.
    """
    for text in overrides:
        found = re.match(r"\+{0,2}framework\.(\w+)\.", text)
        if found and found[1] not in frameworks and found[1] not in keys:
            near = get_close_matches(found[1], frameworks, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ValueError(f"{text!a}: there is no framework {found[1]}{hint}")


def for_framework(overrides: Sequence[str], frameworks: Collection[str]) -> list[str]:
    """The overrides of one job without hyper-parameters of other frameworks than its own."""
    names = [text.partition("=")[2] for text in overrides if text.startswith("framework=")]
    own = names[-1] if names else DEFAULT
    known = "|".join(sorted(map(re.escape, frameworks), key=len, reverse=True))
    single = re.compile(rf"(\+{{0,2}}framework\.)({known})\.(.+)", re.DOTALL)
    kept = []
    for text in overrides:
        found = single.fullmatch(text)
        if found is None:
            kept.append(text)
        elif found[2] == own:
            kept.append(found[1] + found[3])
    return kept
