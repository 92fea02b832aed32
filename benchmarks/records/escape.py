r"""Text from outside (names, notes, errors, reasons) made safe for where it is shown.

Each form has one function here, and every writer uses it: `line` and `lines` for a terminal,
`html` (which SVG shares), `markdown`, `latex` and `csv`. Control characters, among them the
escape codes that steer a terminal and those that turn the direction of writing, are written out
as ``\x1b`` in all of them.
"""

from __future__ import annotations

import re
import sys
import unicodedata
from html import escape as _entities
from typing import Any

_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
"""Unicode categories of what has no glyph, or would move those of others."""


def _visible(character: str) -> str:
    if character.isprintable() or unicodedata.category(character) not in _HIDDEN:
        return character
    return ascii(character)[1:-1]


def line(text: str) -> str:
    """One line of text that cannot steer a terminal; other white space becomes a blank."""
    flat = " ".join(text.split())
    return flat if flat.isprintable() else "".join(map(_visible, flat))


def lines(text: str) -> str:
    """As `line` for text of many lines, such as a traceback, which keeps them and their indents."""
    return "\n".join(
        part if part.isprintable() else "".join(map(_visible, part))
        for part in text.expandtabs().splitlines()
    )


def show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    """What stands for ``warnings.showwarning`` in the command and its workers: one safe line."""
    print(line(f"juxtabit: warning: {message}"), file=sys.stderr)


def html(text: str) -> str:
    """Text for HTML and SVG, within elements and quoted attributes; lines stay lines."""
    return _entities(lines(text))


def markdown(text: str) -> str:
    """Text that Markdown (GitHub's dialect) shows as it is, on one line."""
    flat = line(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\|*_`\[\]~])", r"\\\1", flat)


_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "†": r"\dag{}",
    "‡": r"\ddag{}",
    "•": r"\textbullet{}",
    **{c: f"\\{c}" for c in "&%$#_{}"},
}


_UNSET = re.compile(r"[^\x20-\x7e\u00a1-\u00ac\u00ae-\u017f†‡•]|[ĦħĸĿŀŉŦŧſ]")
"""What the encoding T1 does not have."""


def latex(text: str) -> str:
    """Text that LaTeX sets as it is; what it cannot set (in T1) becomes a question mark."""
    known = _UNSET.sub("?", line(text))
    return "".join(_LATEX.get(c, c) for c in known)


_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_FORMULA = re.compile(r"(^\s*|;\s*)(?=[=+\-@\uff1d\uff0b\uff0d\uff20])")
"""Where a spreadsheet would read a formula: where a cell begins, also one cut at a semicolon."""


def csv(value: object) -> object:
    """A value for a CSV file: text that a spreadsheet would compute is marked as text.

    Numbers stay numbers, negative ones and those that come as text, too.
    """
    if not isinstance(value, str):
        return value
    flat = line(value)
    return flat if _NUMBER.fullmatch(flat) else _FORMULA.sub(r"\1'", flat)
