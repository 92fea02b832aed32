"""``juxtabit completion bash|zsh``: a script that completes commands, options, keys and names.

The script asks ``juxtabit complete WORD...`` for what may stand in the place of the last word. That
reads names from files and from the kept list of frameworks, and does not import torch.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.commands.words import row
from benchmarks.suite.conf import conf_folder

BASH = """_juxtabit() {
    local IFS=$'\\n'
    COMP_WORDBREAKS=${COMP_WORDBREAKS//=/}
    COMPREPLY=($(juxtabit complete -- "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null))
    [[ ${COMPREPLY[0]} == *= ]] && compopt -o nospace
}
complete -o default -F _juxtabit juxtabit
"""
ZSH = """#compdef juxtabit
_juxtabit() {
    local -a found
    found=("${(@f)$(juxtabit complete -- "${(@)words[2,CURRENT]}" 2>/dev/null)}")
    compadd -S '' -- $found || _files
}
compdef _juxtabit juxtabit
"""
_TARGET = re.compile(r"""name: ClassVar\[str\] = "(\w+)\"""")
SCRIPTS = {"bash": BASH, "zsh": ZSH}
GROUPS = ("model", "dataset", "protocol", "tracker", "suite")
KEYS = (
    "budget.like", "budget.ratio", "budget.limit", "budget.metric", "budget.metrics", "seed",
    "baselines", "results", "workers", "threads", "device", "amp", "rerun", "retrain",
    "space.restrict", "space.rest", "space.layers", "model.checkpoint", "model.pretrained",
    "dataset.root", "dataset.workers", "dataset.memory", "protocol.quantizer",
    "protocol.weight_bits", "protocol.act_bits", "protocol.pinned_bits", "protocol.bn",
    "protocol.calibration_images", "protocol.valid_images",
)  # fmt: skip


def completion_command(options: argparse.Namespace, _: list[str]) -> int:
    """Print a shell's script."""
    print(SCRIPTS[options.shell], end="")
    return 0


def complete_command(options: argparse.Namespace, _: list[str]) -> int:
    """Print what may stand in the place of the last word, a line each."""
    for word in candidates(options.words, options.parser):
        row(word)
    return 0


def candidates(words: Sequence[str], parser: argparse.ArgumentParser) -> list[str]:
    """What the last of some words may become.

    Args:
        words: after ``juxtabit``; the last one is being written and may be empty.
        parser: of the command.
    """
    *before, last = words or [""]
    commands = _commands(parser)
    if not before:
        return _fitting(commands, last)
    command = commands.get(before[0])
    if command is None:
        return []
    if last.startswith("-"):
        return _fitting((o for a in command._actions for o in a.option_strings), last)
    key, equals, value = last.partition("=")
    if before[0] in ("run", "lut", "diagnose"):
        if equals:
            lead, _, part = value.rpartition(",")
            lead = f"{lead}," if lead else ""
            return [f"{key}={lead}{v}" for v in _fitting(_values(key.lstrip("+")), part)]
        own = _own_keys(before)
        every = (*(f"{group}=" for group in ("framework", "hardware", *GROUPS[:-1])), "+suite=")
        return _fitting((*every, *(f"{k}=" for k in (*own, *KEYS))), last)
    choices = (c for a in command._actions if not a.option_strings for c in a.choices or ())
    return _fitting(choices, last)


def _commands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    actions = (a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    found = dict(next(actions).choices)
    found.pop("complete", None)
    return found


def _fitting(choices: Iterable[str], start: str) -> list[str]:
    return sorted(choice for choice in set(choices) if choice.startswith(start))


def _values(key: str) -> list[str]:
    """The names of a group."""
    if key == "framework":
        return [entry["name"] for entry in _listed()]
    if key in GROUPS:
        return [path.stem for path in (conf_folder() / key).glob("*.yaml") if path.stem != "schema"]
    if key == "hardware":
        # Read, as importing them imports torch.
        folder = Path(__file__).parents[2] / "frameworks" / "hardware"
        return [name for p in folder.glob("*.py") for name in _TARGET.findall(p.read_text())]
    known = {
        "device": ["auto", "cpu", "cuda", "mps"],
        "amp": ["off", "bf16"],
        "protocol.bn": ["control", "difference", "reestimate", "stored"],
    }
    return known.get(key, [])


def _own_keys(before: Sequence[str]) -> list[str]:
    """The hyper-parameters of the framework that is named."""
    names = [w.partition("=")[2] for w in before if w.startswith("framework=")]
    found = (e for e in _listed() if names and e["name"] == names[-1])
    entry = next(found, {})
    return [f"framework.{name}" for name in entry.get("hyperparameters", {})]


def _listed() -> list[dict[str, Any]]:
    from benchmarks.report.listing import listing

    return listing()["frameworks"]
