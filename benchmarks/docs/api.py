"""Builds the pages of the Python interface with pdoc; a warning is an error.

python -m benchmarks.docs.api --out build/docs

pdoc (``pip install '.[docs]'``) imports every module and links each name in single backticks.
"""

from __future__ import annotations

import argparse
import sys
import typing
import warnings
from collections.abc import Sequence
from pathlib import Path

import pdoc
import pdoc.extract
import pdoc.render

PACKAGES = (
    "frameworks",
    "frameworks.core",
    "frameworks.gradient",
    "frameworks.reinforcement",
    "frameworks.heuristic",
    "frameworks.metaheuristic",
    "frameworks.baselines",
    "frameworks.hardware",
    "frameworks.testing",
    "benchmarks",
    "!benchmarks.perf",
)
"""What has pages; of a package with public names (``__all__``) pdoc shows these and no modules."""


def build(packages: Sequence[str], out: Path) -> int:
    """Write a page a module into a folder; how many there are.

    Raises:
        UserWarning: pdoc cannot import a module or read an annotation.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        names = pdoc.extract.walk_specs(packages)
        for name in names:
            _explain_tuples(pdoc.extract.load_module(name))
        warnings.filterwarnings("error", module="pdoc")
        pdoc.render.configure(docformat="google", show_source=False)
        pdoc.pdoc(*packages, output_directory=out)
    return len(names)


def _explain_tuples(module: object) -> None:
    """Give the constructors of named tuples their types, which pdoc cannot find by itself."""
    for entry in vars(module).values():
        if isinstance(entry, type) and hasattr(entry, "_fields") and issubclass(entry, tuple):
            entry.__new__.__annotations__ = typing.get_type_hints(entry)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.docs.api")
    parser.add_argument("--out", type=Path, default=Path("build/docs"), help="the folder to fill")
    out = parser.parse_args(argv).out
    print(f"{build(PACKAGES, out)} modules: {out / 'index.html'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
