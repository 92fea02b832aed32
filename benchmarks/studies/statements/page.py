"""Statements of pages: rendered, found, and what numbers of the pages nobody accounts for.

The file of statements (YAML) has

- ``pages``: the pages that make them.
- ``groups``: names for groups of cells, by records and axes.
- ``statements``: each a text ``says`` with ``{expression:format}`` in the place of its numbers, and
  expressions that must hold where its words compare (``holds``).
- ``tables``: how a table in a page begins, and the records whose summary it is.
- ``settings``: phrases, and beginnings of tables, whose numbers are choices and facts, no results.
- ``untied``: phrases with results that no committed data gives, each with the reason.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import zip_longest
from pathlib import Path
from string import Formatter
from typing import Any

from omegaconf import OmegaConf

from benchmarks.studies.statements.expressions import BadExpression, evaluate
from benchmarks.studies.statements.measures import FUNCTIONS, ROOT, group, table

FILE = ROOT / "docs" / "statements.yaml"
BREAK = "\f"
UNTRIED = "-"
"""In a summary, where a framework has no number."""
"""Between two pages in their common text."""
_CODE = re.compile(r"```.*?```|`[^`\n]*(?:\n[^`\n]*)?`", re.S)
_HIDDEN = re.compile(r"<[^>]*>|\]\([^)]*\)|\b\d{4}\.\d{5}\b")
"""Tags, comments, targets of links, arXiv numbers."""
_NAMES = re.compile(r"\b[A-Za-z]+[\w-]*?\d[\w/.-]*")
"""ResNet-8/20/56, HAWQ-V3, MobileNetV2, W4A4, x86, Apache-2.0."""


@dataclass(frozen=True)
class Statement:
    """A sentence with the expressions of its numbers.

    Attributes:
        says: its text with ``{expression:format}``.
        holds: expressions that must be true.
        names: what names in expressions stand for.
    """

    says: str
    holds: tuple[str, ...]
    names: dict[str, Any] = field(repr=False)

    @property
    def parts(self) -> list[tuple[str, str | None, str]]:
        """Literal text, the expression behind it (None: there is none) and its format."""
        said = Formatter().parse(_flat(self.says))
        return [(literal, inner, form or "") for literal, inner, form, _ in said]

    def value(self, expression: str) -> Any:
        """The value of an expression."""
        return evaluate(expression, FUNCTIONS, self.names)

    def numbers(self) -> Iterator[tuple[str, Any, str]]:
        """Each expression with its value and how it is shown."""
        for _, expression, form in self.parts:
            if expression is not None:
                value = self.value(expression)
                yield expression, value, format(value, form)

    @cached_property
    def text(self) -> str:
        """What the page must say, in one line."""
        shown = iter([shown for _, _, shown in self.numbers()])
        return "".join(
            literal + (next(shown) if expression is not None else "")
            for literal, expression, _ in self.parts
        )

    @property
    def pattern(self) -> re.Pattern[str]:
        """The text with any numbers, wrapped in any way."""
        found = ""
        for literal, expression, _ in self.parts:
            words = [re.escape(word) for word in re.split(r"\s+", literal)]
            found += r"\s+".join(words) + (r"(-?[\d.,]*\d)" if expression is not None else "")
        return re.compile(found)

    def broken(self) -> list[str]:
        """What of its words does not hold."""
        return [expression for expression in self.holds if self.value(expression) is not True]


@dataclass(frozen=True)
class Pages:
    """Some pages, read as one text, and what they state; see the module."""

    paths: tuple[Path, ...]
    statements: tuple[Statement, ...]
    tables: tuple[tuple[str, str], ...]
    settings: tuple[str, ...]
    untied: tuple[tuple[str, str], ...]

    @cached_property
    def text(self) -> str:
        """The pages, one after the other."""
        return BREAK.join(path.read_text(encoding="utf-8") for path in self.paths)

    def faults(self) -> list[str]:
        """All that is wrong, a line each: statements, tables, and numbers without a tie."""
        flat = _flat(self.text)
        found = []
        for statement in self.statements:
            found += [f"does not hold: {broken}" for broken in statement.broken()]
            if statement.text not in flat:
                found.append(f"no page says: {statement.text}")
        for first, folder in self.tables:
            if not (said := _rows(self.text, first)):
                found.append(f"no page has the table {first!r}")
                continue
            found += [
                f"the table {first!r} is not that of {folder}: {ours!r} in place of {theirs!r}"
                for ours, theirs in zip_longest(said, _summary(folder, said))
                if ours != theirs
            ]
        for phrase in [*self.settings, *(phrase for phrase, _ in self.untied)]:
            if _flat(phrase) not in flat:
                found.append(f"no page has the phrase: {phrase}")
        return found + [f"a number that nothing accounts for: {part}" for part in self.loose()]

    def loose(self) -> list[str]:
        """Numbers that no statement, table or setting accounts for, with the words around them."""
        rest = self.text
        headings = [first for first, _ in self.tables]
        headings += [phrase for phrase in self.settings if phrase.startswith("|")]
        for first in headings:
            for row in _rows(rest, first):
                rest = rest.replace(row, "", 1)
        rest = _flat(rest)
        phrases = [s.text for s in self.statements] + [_flat(s) for s in self.settings]
        for phrase in [*phrases, *(_flat(phrase) for phrase, _ in self.untied)]:
            rest = rest.replace(phrase, "...")
        for noise in (_CODE, _HIDDEN, _NAMES):
            rest = noise.sub(" ", rest)
        rest = _flat(rest)
        return [
            rest[max(m.start() - 60, 0) : m.end() + 40] for m in re.finditer(r"\d[\d.,]*", rest)
        ]

    def written(self) -> dict[Path, str]:
        """The pages with the numbers that the records give, and with their tables.

        Raises:
            LookupError: they do not have a statement's words, once, or a table.
        """
        text = self.text
        for statement in self.statements:
            if len(found := list(statement.pattern.finditer(text))) != 1:
                raise LookupError(
                    f"the pages have {len(found)} times the words of: {statement.text}"
                )
            shown = [shown for _, _, shown in statement.numbers()]
            for place, number in reversed(list(enumerate(shown, 1))):
                start, end = found[0].span(place)
                text = text[:start] + number + text[end:]
        for first, folder in self.tables:
            if not (old := _rows(text, first)):
                raise LookupError(f"no page has the table {first!r}")
            text = text.replace("\n".join(old), "\n".join(_summary(folder, old)))
        return dict(zip(self.paths, text.split(BREAK), strict=True))


def _flat(text: str) -> str:
    """Text in one line."""
    return " ".join(text.split())


def _rows(text: str, first: str) -> list[str]:
    """The lines of the first table that begins so."""
    lines = text.splitlines()
    start = next((i for i, line in enumerate(lines) if line.startswith(first)), len(lines))
    end = next((i for i in range(start, len(lines)) if not lines[i].startswith("|")), len(lines))
    return lines[start:end]


def _summary(folder: str, said: list[str]) -> list[str]:
    """A folder's summary in the columns that a page has, of the frameworks with a number there.

    A heading may leave out how the summary's begins, such as a protocol that all columns share.

    Raises:
        LookupError: the summary has not these columns.
    """
    headings = _cells(said[0])
    lines = table(folder).summary().splitlines()
    for place, line in enumerate(lines):
        ends = [[i for i, c in enumerate(_cells(line)) if c.endswith(h)] for h in headings]
        if all(len(found) == 1 for found in ends):
            chosen = [found[0] for found in ends]
            rows = [_cells(row) for row in _rows("\n".join(lines[place:]), line)[2:]]
            kept = [[row[i] for i in chosen] for row in rows]
            shown = [row for row in kept if set(row[1:]) != {UNTRIED}]
            return [*said[:2], *(f"| {' | '.join(row)} |" for row in shown)]
    raise LookupError(f"{folder}: its summary has not the columns of {said[0]}")


def _cells(line: str) -> list[str]:
    """The cells of a line of a table."""
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def read(path: Path = FILE) -> Pages:
    """The pages that a file of statements is about.

    Raises:
        BadExpression: a group is not there.
    """
    data: Any = OmegaConf.to_container(OmegaConf.load(path))
    try:
        names = {name: group(**axes) for name, axes in (data.get("groups") or {}).items()}
    except LookupError as error:
        raise BadExpression(f"{path}: {error}") from error
    return Pages(
        tuple(ROOT / page for page in data["pages"]),
        tuple(
            Statement(one["says"], tuple(one.get("holds", ())), names) for one in data["statements"]
        ),
        tuple((one["first"], one["records"]) for one in data.get("tables", ())),
        tuple(data.get("settings", ())),
        tuple((one["says"], one["why"]) for one in data.get("untied", ())),
    )
