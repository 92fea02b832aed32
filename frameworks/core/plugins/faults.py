"""What is wrong with a plugin: in one line, with file, line and cure."""

from __future__ import annotations

import inspect
import os
import re
import traceback
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

_CORE = str(Path(__file__).parents[1]) + os.sep
_STDLIB = os.path.dirname(os.__file__) + os.sep
_OWN_CLASS = re.compile(r"^frameworks\.[\w.]+\.(?=\w+:)")


class NothingRegistered(TypeError):
    """A plugin's module was imported, and nothing of it is known now; ``where`` is what it has."""

    def __init__(self, message: str, where: str) -> None:
        super().__init__(message)
        self.where = where


@dataclass(frozen=True)
class Origin:
    """Where an entry comes from."""

    distribution: str
    version: str


@dataclass(frozen=True)
class Unavailable:
    """A plugin that could not be imported."""

    name: str
    error: str
    origin: Origin
    where: str = ""
    """``FILE:LINE`` of the fault; where no file is at fault, who named what is not there."""

    @property
    def fault(self) -> str:
        """The fault in one line: file, line, and what is wrong."""
        reason = _OWN_CLASS.sub("", self.error.strip().splitlines()[-1])
        return f"{self.where}: {reason}" if self.where else reason


def unavailable(
    name: str, error: BaseException, home: str, origin: Origin, source: str
) -> Unavailable:
    """What stands in the place of a plugin whose import has just failed.

    Args:
        home: the package or module that is the plugin's own.
        source: who asked for it; said where no line of a file is at fault.
    """
    told = isinstance(error, NothingRegistered)
    text = str(error) if told else "".join(traceback.format_exception(error))
    return Unavailable(name, text, origin, where(error, home) or source)


def where(error: BaseException, home: str) -> str:
    """``FILE:LINE`` of what an import failed at, the last line of a plugin's own; or nothing.

    What runs the import (this room, importlib, code that was made of a string) is nobody's fault.
    """
    if isinstance(error, NothingRegistered):
        return error.where
    if isinstance(error, SyntaxError) and error.filename and not error.filename.startswith("<"):
        return f"{error.filename}:{error.lineno}"
    found = [
        (under(frame.f_globals.get("__name__") or "", home), f"{frame.f_code.co_filename}:{line}")
        for frame, line in traceback.walk_tb(error.__traceback__)
        if _may_be_at_fault(frame.f_code.co_filename)
    ]
    own = [place for is_own, place in found if is_own]
    return (own or [place for _, place in found] or [""])[-1]


def _may_be_at_fault(file: str) -> bool:
    ours = file.startswith(("<", _CORE))
    return not ours and ("site-packages" in file or not file.startswith(_STDLIB))


def under(module: str, home: str) -> bool:
    """Whether a module is another, or lies below it."""
    return module == home or module.startswith(f"{home}.")


def owned(module: ModuleType) -> list[Any]:
    """The classes and functions that a module defines itself, in its order."""
    values = [v for v in vars(module).values() if inspect.isclass(v) or inspect.isfunction(v)]
    return [value for value in values if value.__module__ == module.__name__]


def is_named(entry: object) -> bool:
    """Whether something is a class with what an entry of a registry has."""
    return inspect.isclass(entry) and bool({"name", "card"} & set(vars(entry)))


def place_of_forgotten(module: ModuleType, functions: bool) -> str:
    """``FILE:LINE`` of what a module most likely meant to register; else the file alone."""
    mine = owned(module)
    likely = filter(inspect.isfunction, mine) if functions else filter(is_named, mine)
    first = next(likely, None)
    file = getattr(module, "__file__", None) or module.__name__
    return (place_of(first) if first is not None else "") or file


def place_of(entry: object) -> str:
    """``FILE:LINE`` where a class or function is written."""
    try:
        source, line = inspect.getsourcefile(entry), inspect.getsourcelines(entry)[1]  # type: ignore[arg-type]
    except (OSError, TypeError):
        return ""
    return f"{source}:{line}"
