"""Builds the pages of the Python interface with pdoc; a warning is an error.

python -m benchmarks.docs.api --out build/docs

pdoc (``pip install '.[docs]'``) imports every module and links each name in single backticks.
"""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import sys
import typing
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import pdoc
import pdoc.extract
import pdoc.render

TOPS = ("frameworks", "benchmarks")
WITHOUT = ("benchmarks.perf",)
"""Measurements of speed, which are tests."""


def packages() -> list[str]:
    """What has pages: of a package with public names (``__all__``) pdoc shows these, not rooms."""
    found = []
    for top in map(importlib.import_module, TOPS):
        rooms = [f"{top.__name__}.{room.name}" for room in pkgutil.iter_modules(top.__path__)]
        found += [top.__name__, *(room for room in rooms if room not in WITHOUT)]
    return found


def build(wanted: Sequence[str], out: Path) -> int:
    """Write a page a module into a folder; how many there are.

    Raises:
        UserWarning: pdoc cannot import a module or read an annotation.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        names = pdoc.extract.walk_specs(wanted)
        for name in names:
            module = pdoc.extract.load_module(name)
            _settle(module)
            _explain_tuples(module)
        warnings.filterwarnings("error", module="pdoc")
        pdoc.render.configure(docformat="google", show_source=False)
        pdoc.pdoc(*wanted, output_directory=out)
    return len(names)


def _settle(module: ModuleType) -> None:
    """Import the public names that a module only imports when they are asked for."""
    for name in getattr(module, "__all__", ()):
        setattr(module, name, getattr(module, name))


def _explain_tuples(module: ModuleType) -> None:
    """Give the constructors of named tuples their types, which pdoc cannot find by itself."""
    for entry in vars(module).values():
        if isinstance(entry, type) and hasattr(entry, "_fields") and issubclass(entry, tuple):
            entry.__new__.__annotations__ = typing.get_type_hints(entry)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.docs.api")
    parser.add_argument("--out", type=Path, default=Path("build/docs"), help="the folder to fill")
    out = parser.parse_args(argv).out
    print(f"{build(packages(), out)} modules: {out / 'index.html'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
