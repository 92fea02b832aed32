"""``juxtabit run --keys``: a line for each key of the configuration, from the docstrings."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf


def attributes(cls: type) -> dict[str, str]:
    """What a class's docstring says of its fields, by name, each on one line."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        for entry in _entries(inspect.cleandoc(base.__doc__ or "")):
            names, colon, meaning = entry.partition(": ")
            if colon:
                found.update(dict.fromkeys((n.strip() for n in names.split(",")), meaning))
    return found


def _entries(doc: str) -> list[str]:
    """The entries of the section ``Attributes``, each on one line."""
    found: list[str] = []
    for line in doc.partition("Attributes:\n")[2].splitlines():
        if line and not line.startswith(" "):
            break
        if line.startswith("    ") and not line.startswith("     "):
            found.append(line.strip())
        elif found and line.strip():
            found[-1] += f" {line.strip()}"
    return found


def key_lines(config: DictConfig, width: int) -> Iterator[str]:
    """The keys of a configuration with their values and meanings.

    Args:
        config: as composed; its framework's and target's own keys are among them.
        width: of a line.
    """
    from benchmarks.suite.config import Config

    meanings = attributes(Config)
    plain: Any = OmegaConf.to_container(config, resolve=False)
    for key, value in plain.items():
        if key == "suite":
            continue
        if isinstance(value, Mapping):
            yield from _group(key, value, width)
        else:
            yield from _shown(key, value, meanings.get(key, ""), width)


def _group(key: str, values: Mapping[str, Any], width: int) -> Iterator[str]:
    meanings = attributes(_class_of(key, str(values.get("name", ""))))
    for name, value in values.items():
        yield from _shown(f"{key}.{name}", value, meanings.get(name, ""), width)
        if isinstance(value, Mapping) and name in ("fine_tune", "pretrain"):
            recipe = attributes(_class_of("recipe", ""))
            for part, inner in value.items():
                yield from _shown(f"{key}.{name}.{part}", inner, recipe.get(part, ""), width)


def _class_of(key: str, name: str) -> type:
    """The class whose docstring explains a group's keys."""
    from benchmarks.data.load import DatasetConfig
    from benchmarks.models.build import ModelConfig
    from benchmarks.suite.config import ProtocolConfig, TrackerConfig
    from benchmarks.suite.options.spaces import SpaceConfig
    from frameworks import BudgetSpec, Recipe, registry, targets

    if key == "framework":
        return registry.get(name)
    if key == "hardware":
        return targets.get(name)
    known: Sequence[tuple[str, type]] = (
        ("model", ModelConfig),
        ("dataset", DatasetConfig),
        ("budget", BudgetSpec),
        ("space", SpaceConfig),
        ("protocol", ProtocolConfig),
        ("tracker", TrackerConfig),
        ("recipe", Recipe),
    )
    cls = dict(known)[key]
    assert is_dataclass(cls)
    return cls


def _shown(key: str, value: Any, meaning: str, width: int) -> Iterator[str]:
    head = f"{key}={_text(value)}"
    if len(head) > 38:
        yield head
        head = ""
    indent = " " * 40
    yield from textwrap.wrap(
        meaning or "-", max(width, 70), initial_indent=f"{head:<40}", subsequent_indent=indent
    )


def _text(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, Mapping):
        return "{...}" if value else "{}"
    return str(value)
