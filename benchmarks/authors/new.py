"""``juxtabit new``: a package with a method that runs, its tests and its entry point."""

from __future__ import annotations

import importlib.util
import keyword
import re
from importlib.resources import files
from pathlib import Path

CATEGORIES = ("gradient", "reinforcement", "heuristic", "metaheuristic")
_FILES = {"method": "{name}.py", "test_method": "test_{name}.py", "pyproject": "pyproject.toml"}


def write_package(name: str, category: str, into: Path) -> list[Path]:
    """Write the package ``into/name``; its files, the method first.

    Args:
        name: of the method, the module and the folder.
        category: one of the survey's.
        into: a folder.

    Raises:
        ValueError: the name or the category cannot be used; the message says why.
        OSError: no folder can be made in ``into``.
        FileExistsError: there is such a folder with something in it.
    """
    from frameworks import registry

    _check_letters(name)
    if category not in CATEGORIES:
        raise ValueError(f"category {category!a}: choose from {', '.join(CATEGORIES)}")
    if name in registry.names():
        origin = registry.origin(name).distribution
        raise ValueError(f"{name}: there is a framework of this name, from {origin}")
    _check_module(name)
    folder = _made(into, name)
    written = []
    for part, file in _FILES.items():
        path = folder / file.format(name=name)
        path.write_text(_filled(part, name, category), encoding="utf-8")
        written.append(path)
    return written


def _check_letters(name: str) -> None:
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise ValueError(f"{name!a}: a name has lower-case letters, digits and _, a letter first")
    if keyword.iskeyword(name):
        raise ValueError(f"{name}: a word of Python's own cannot be a module; choose another name")


def _check_module(name: str) -> None:
    """The name is a module's, too, and must hide no other from what imports that."""
    found = importlib.util.find_spec(name)
    if found is not None and found.origin is not None:  # a folder alone is no module
        raise ValueError(
            f"{name}: there is a module of this name, which {name}.py would hide; choose another, "
            f"such as {name}_bits"
        )


def _made(into: Path, name: str) -> Path:
    """The new folder."""
    folder = into / name
    if folder.is_dir() and any(folder.iterdir()):
        raise FileExistsError(f"{folder}: there is such a folder, and it is not empty")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise type(error)(
            f"--into {into}: the folder {folder} cannot be made ({error.strerror}); name one that "
            "you can write in"
        ) from error
    return folder


def _filled(part: str, name: str, category: str) -> str:
    source = files("benchmarks.authors").joinpath("package", f"{part}.txt")
    title = "".join(word.capitalize() for word in name.split("_"))
    text = source.read_text(encoding="utf-8").replace(
        'category="heuristic"', f'category="{category}"'
    )
    text = re.sub(r"\b(Test)?Mine\b", lambda match: (match[1] or "") + title, text)
    return re.sub(r"\bmine\b", name, text)
