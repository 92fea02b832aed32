"""What a Python file says and imports, and where what it imports lies, without running it."""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from functools import cache, lru_cache
from pathlib import Path

from benchmarks.records.record import digest
from frameworks import file_digest

_IMPORTING = ("import_module", "__import__")
_WRITING = ("write", "to_", "save", "dump", "mkdir")
"""How calls begin that write: a script would be another one after each run by what it wrote."""
_MODES = {"w", "wb", "a", "ab"}
_LONGEST = 200
"""Letters of a file's name, more than which some systems refuse."""


def code_digest(path: Path) -> str:
    """A digest of a Python file's code; comments, docstrings and layout do not count."""
    return _read(path, file_digest(path))[0]


def imports(path: Path) -> tuple[str, ...]:
    """Dotted names of all that a file imports anywhere, relative ones with their dots.

    Of ``import_module`` those that it is told as they stand.
    """
    return _read(path, file_digest(path))[1]


def data_beside(path: Path) -> tuple[str, ...]:
    """Names of the files that a Python file finds by its own place, below its folder.

    Such as ``Path(__file__).with_name("table.json")``, or ``HERE / "data" / "table.json"``.
    """
    texts = _read(path, file_digest(path))[2]
    below = [(), *((text,) for text in texts if (path.parent / text).is_dir())]
    names = (str(Path(*folder, text)) for folder in below for text in texts)
    return tuple(name for name in dict.fromkeys(names) if (path.parent / name).is_file())


@lru_cache(maxsize=4096)
def _read(path: Path, content: str) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):  # a template, or of another Python: as it stands
        return content, (), ()
    found = tuple(dict.fromkeys(_imported(tree)))
    texts = tuple(dict.fromkeys(_placed(tree)))
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
        elif isinstance(node, ast.Call) and _name(node.func) in _IMPORTING:
            yield from _texts(node.args[:1])


def _placed(tree: ast.AST) -> Iterator[str]:
    """Texts in what is said of the file's own place, or of a name that was given to it."""
    places = {"__file__"}
    for statement in (node for node in ast.walk(tree) if isinstance(node, ast.stmt)):
        said = [part for part in ast.iter_child_nodes(statement) if not isinstance(part, ast.stmt)]
        names = {_name(node) for part in said for node in ast.walk(part)}
        texts = list(_texts(said))
        writes = any(name.startswith(_WRITING) for name in names) or not _MODES.isdisjoint(texts)
        if names & places and not writes:
            yield from texts
            if isinstance(statement, ast.Assign):
                places |= {_name(target) for target in statement.targets} - {""}
            elif isinstance(statement, ast.AnnAssign):
                places |= {_name(statement.target)} - {""}


def _name(node: ast.AST) -> str:
    """The last part of a dotted name; empty for anything else."""
    return str(getattr(node, "id", "") or getattr(node, "attr", ""))


def _texts(parts: Sequence[ast.AST]) -> Iterator[str]:
    for node in (node for part in parts for node in ast.walk(part)):
        text = getattr(node, "value", None) if isinstance(node, ast.Constant) else None
        if isinstance(text, str) and 0 < len(text.strip()) < _LONGEST and text.isprintable():
            yield text


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
