"""Data that a Python file finds by its own place: what it spells, read without running it.

Of a file that says ``__file__`` every text counts that names a file below its folder, joined over
the folders that other texts name (``HERE / "data" / "table.json"``), and its own name under a
suffix (``Path(__file__).with_suffix(".json")``). A folder counts where its content is listed. What
the file writes itself does not count: its code would be another one after each run. Names that are
put together at run time are not known.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

from frameworks import files_under

_WRITES = {
    *("write_text", "write_bytes", "writelines", "mkdir", "makedirs", "touch", "unlink", "dump"),
    *("to_csv", "to_json", "to_parquet", "to_pickle", "to_excel", "to_feather", "to_html"),
    *("save", "savez", "savez_compressed", "savetxt", "savefig", "save_file"),
}
_LISTS = {"glob", "rglob", "iterdir", "listdir", "scandir", "walk"}
_MODE = re.compile(r"(?=.*[wax+])[rwaxbt+]{1,3}")
_LONGEST = 200
"""Letters of a file's name, more than which some systems refuse."""
_DEEPEST = 4
"""Folders that are joined."""


@dataclass(frozen=True)
class Spelled:
    """Texts of a file that says ``__file__``.

    Attributes:
        texts: all of them.
        suffixes: those that its own name is given.
        written: those in what the file writes.
        listed: those in what it lists.
    """

    texts: tuple[str, ...] = ()
    suffixes: frozenset[str] = frozenset()
    written: frozenset[str] = frozenset()
    listed: frozenset[str] = frozenset()


def spelled(tree: ast.AST) -> Spelled:
    """What a file spells; nothing of one that does not say ``__file__``."""
    nodes = list(ast.walk(tree))
    if not any(isinstance(node, ast.Name) and node.id == "__file__" for node in nodes):
        return Spelled()
    calls = [node for node in nodes if isinstance(node, ast.Call)]
    functions = [n for n in nodes if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    writing = {f.name for f in functions if any(_writes(call, set()) for call in _calls([f]))}
    known = _Variables(nodes)
    return Spelled(
        tuple(dict.fromkeys(texts_in([tree]))),
        frozenset(texts_in(c for c in calls if last_name(c.func) == "with_suffix")),
        known.texts_where(lambda call: _writes(call, writing)),
        known.texts_where(lambda call: last_name(call.func) in _LISTS),
    )


def named_below(path: Path, said: Spelled) -> tuple[str, ...]:
    """The files below a Python file's folder that it spells, by their names from there."""
    folder, texts = path.parent, [t for t in said.texts if not Path(t).is_absolute()]
    folders, found = [""], dict[str, None]()
    for _ in range(_DEEPEST):
        below: list[str] = []
        for at, text in product(folders, texts):
            name = str(Path(at, text))
            if (folder / name).is_file():
                if text not in said.written:
                    found[name] = None
            elif name not in (".", at) and (folder / name).is_dir():
                below.append(name)
                # What lies above, a whole project say, is not the file's own.
                if text in said.listed and ".." not in Path(name).parts:
                    found |= dict.fromkeys(str(Path(name, x)) for x in files_under(folder / name))
        folders = below
    own = (f"{path.stem}{text}" for text in said.suffixes if text not in said.written)
    found |= dict.fromkeys(name for name in own if (folder / name).is_file())
    return tuple(name for name in found if folder / name != path)


class _Variables:
    """The statements of a file, and which texts its variables are made of."""

    def __init__(self, nodes: Iterable[ast.AST]) -> None:
        self.statements = [list(_header(node)) for node in nodes if isinstance(node, ast.stmt)]
        self.made: dict[str, _Made] = {}
        for parts in self.statements:
            for node in (n for part in parts for n in ast.walk(part)):
                if isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
                    self.made.setdefault(last_name(node), _Made()).of(parts)

    def texts_where(self, wanted: Callable[[ast.Call], bool]) -> frozenset[str]:
        """Texts in statements with a call that is wanted, and those of their variables."""
        found: set[str] = set()
        for parts in self.statements:
            if any(wanted(call) for call in _calls(parts)):
                made = _Made()
                made.of(parts)
                found |= made.texts
                waiting, seen = list(made.names), set[str]()
                while waiting:
                    name = waiting.pop()
                    if name not in seen and (other := self.made.get(name)) is not None:
                        seen.add(name)
                        found |= other.texts
                        waiting += other.names
        return frozenset(found)


@dataclass
class _Made:
    """Texts and names in what a variable was given."""

    texts: set[str] = field(default_factory=set)
    names: set[str] = field(default_factory=set)

    def of(self, parts: Iterable[ast.AST]) -> None:
        parts = list(parts)
        self.texts |= set(texts_in(parts))
        self.names |= {last_name(node) for part in parts for node in ast.walk(part)} - {""}


def _header(statement: ast.stmt) -> Iterator[ast.AST]:
    """What a statement says itself, without the statements in it."""
    return (n for n in ast.iter_child_nodes(statement) if not isinstance(n, ast.stmt))


def _calls(parts: Iterable[ast.AST]) -> Iterator[ast.Call]:
    return (n for part in parts for n in ast.walk(part) if isinstance(n, ast.Call))


def _writes(call: ast.Call, functions: set[str]) -> bool:
    """Whether a call writes a file: by its name, the mode it opens with, or what it is here."""
    name = last_name(call.func)
    given = [*call.args, *(keyword.value for keyword in call.keywords)]
    modes = [n.value for n in given if isinstance(n, ast.Constant) and isinstance(n.value, str)]
    opens = name == "open" and any(_MODE.fullmatch(mode) for mode in modes)
    return opens or name in _WRITES or name in functions


def last_name(node: ast.AST) -> str:
    """The last part of a dotted name; empty for anything else."""
    return str(getattr(node, "id", "") or getattr(node, "attr", ""))


def texts_in(parts: Iterable[ast.AST]) -> Iterator[str]:
    """Texts that can be a file's name."""
    for node in (node for part in parts for node in ast.walk(part)):
        text = node.value if isinstance(node, ast.Constant) else None
        if isinstance(text, str) and 0 < len(text.strip()) < _LONGEST and text.isprintable():
            yield text
