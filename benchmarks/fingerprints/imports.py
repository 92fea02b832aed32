"""What a Python file says and imports, and where what it imports lies, without running it."""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from functools import cache, lru_cache
from pathlib import Path

from benchmarks.fingerprints.beside import Spelled, last_name, named_below, spelled, texts_in
from benchmarks.records.record import digest
from frameworks import file_digest

_IMPORTING = ("import_module", "__import__")


def code_digest(path: Path) -> str:
    """A digest of a Python file's code; comments, docstrings and layout do not count."""
    return _read(path, file_digest(path))[0]


def imports(path: Path) -> tuple[str, ...]:
    """Dotted names of all that a file imports anywhere, relative ones with their dots.

    Of ``import_module`` those that it is told as they stand.
    """
    return _read(path, file_digest(path))[1]


def beside(path: Path) -> tuple[str, ...]:
    """Names of the files that a Python file finds by its own place, as far as it spells them.

    See `benchmarks.fingerprints.beside`.
    """
    return named_below(path, _read(path, file_digest(path))[2])


@lru_cache(maxsize=4096)
def _read(path: Path, content: str) -> tuple[str, tuple[str, ...], Spelled]:
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):  # a template, or of another Python: as it stands
        return content, (), Spelled()
    found = tuple(dict.fromkeys(_imported(tree)))
    texts = spelled(tree)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and _is_docstring(body[0]):
            body[:] = body[1:] or [ast.Pass()]
    return digest(ast.unparse(tree)), found, texts


def _is_docstring(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def _imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (f"{node.module}." if node.module else "")
            yield from (base + alias.name for alias in node.names)
        elif isinstance(node, ast.Call) and last_name(node.func) in _IMPORTING:
            yield from texts_in(node.args[:1])


def place(name: str) -> Path | None:
    """The package folder or file of a dotted name that can be imported as it stands."""
    top, *rest = name.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError, AttributeError):
        return None
    if spec is None:
        return None
    if spec.origin is not None and Path(spec.origin).is_file():
        file = Path(spec.origin)
        return file.parent if file.name.startswith("__init__.") else file
    found = (_down(Path(folder), rest) for folder in spec.submodule_search_locations or ())
    return next((path for path in found if path is not None), None)


def place_below(folder: Path, name: str) -> Path | None:
    """The same of a relative name (``.helper.choose``) in a file of a folder."""
    parts = name.lstrip(".").split(".")
    for _ in range(len(name) - len(name.lstrip(".")) - 1):
        folder = folder.parent
    return _down(folder, parts)


def _down(folder: Path, parts: Sequence[str]) -> Path | None:
    """The first regular package or module on the way down through namespace packages."""
    for part in parts:
        if (folder / part / "__init__.py").is_file():
            return folder / part
        if (folder / f"{part}.py").is_file():
            return folder / f"{part}.py"
        folder = folder / part
    return None


@cache
def _distributions() -> Mapping[str, list[str]]:
    return importlib.metadata.packages_distributions()


@cache
def installed(top: str) -> dict[str, str]:
    """Name and version of the distributions that hold a top-level package.

    Empty if it is none of an installed one, or of one that is installed as a link to its sources.
    """
    found = place(top)
    known = [importlib.metadata.distribution(n) for n in _distributions().get(top, ())]
    return {
        dist.name: dist.version
        for dist in known
        if found is None or found.is_relative_to(str(dist.locate_file("")))
    }
