"""``juxtabit new``: a package with a method that runs, its tests and its entry point."""

from __future__ import annotations

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
        FileExistsError: there is such a folder with something in it.
    """
    from frameworks import registry

    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise ValueError(f"{name!a}: a name has lower-case letters, digits and _, a letter first")
    if category not in CATEGORIES:
        raise ValueError(f"category {category!a}: choose from {', '.join(CATEGORIES)}")
    if name in registry.names():
        origin = registry.origin(name).distribution
        raise ValueError(f"{name}: there is a framework of this name, from {origin}")
    folder = into / name
    if folder.exists() and any(folder.iterdir()):
        raise FileExistsError(f"{folder}: there is such a folder, and it is not empty")
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for part, file in _FILES.items():
        path = folder / file.format(name=name)
        path.write_text(_filled(part, name, category), encoding="utf-8")
        written.append(path)
    return written


def _filled(part: str, name: str, category: str) -> str:
    source = files("benchmarks.authors").joinpath("package", f"{part}.txt")
    title = "".join(word.capitalize() for word in name.split("_"))
    text = source.read_text(encoding="utf-8").replace(
        'category="heuristic"', f'category="{category}"'
    )
    text = re.sub(r"\b(Test)?Mine\b", lambda match: (match[1] or "") + title, text)
    return re.sub(r"\bmine\b", name, text)
