"""What a framework's class says of itself: hyper-parameters, docstrings, the file."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator
from dataclasses import MISSING, dataclass, fields
from pathlib import Path

from frameworks import Framework, registry

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class HyperParameter:
    """A field of a framework: its name, type and default as written, its line of the docstring."""

    name: str
    type: str
    default: str
    says: str
    required: bool = False


def built_in() -> dict[str, type[Framework]]:
    """The frameworks and baselines of this project by name; plugins have pages of their own."""
    found = {name: registry.get(name) for name in registry.names()}
    return {n: cls for n, cls in found.items() if cls.__module__.startswith("frameworks.")}


def hyperparameters(cls: type[Framework]) -> list[HyperParameter]:
    """The hyper-parameters, the class's own first, each with what a docstring says of it."""
    said = {name: says for base in reversed(cls.__mro__) for name, says in attributes(base)}
    own = inspect.get_annotations(cls)
    return [
        HyperParameter(
            f.name,
            f.type if isinstance(f.type, str) else f.type.__name__,
            repr(f.default if f.default_factory is MISSING else f.default_factory()),
            said.get(f.name, ""),
            bool(f.metadata.get("required")),
        )
        for f in sorted(fields(cls), key=lambda f: f.name not in own)  # type: ignore[arg-type]
    ]


def attributes(cls: type) -> Iterator[tuple[str, str]]:
    """Names and descriptions under ``Attributes:`` in a class's own docstring."""
    text = inspect.cleandoc(cls.__dict__.get("__doc__") or "")
    _, _, section = text.partition("\nAttributes:\n")
    section = re.split(r"\n(?=\S)", section)[0]
    for entry in re.split(r"\n?^ {4}(?=\S)", section, flags=re.M):
        names, colon, says = entry.partition(":")
        if colon:
            yield from ((name.strip(), " ".join(says.split())) for name in names.split(","))


def sentence(cls: type) -> str:
    """The first paragraph of a class's docstring, in one line."""
    return " ".join((inspect.getdoc(cls) or "").split("\n\n")[0].split())


def module_text(cls: type) -> str:
    """The docstring of the module that a class is in."""
    return inspect.cleandoc(sys.modules[cls.__module__].__doc__ or "")


def source(cls: type) -> str:
    """The file of a class, relative to the project."""
    return Path(inspect.getfile(cls)).resolve().relative_to(ROOT).as_posix()
