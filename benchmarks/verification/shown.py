"""What verification found, for a terminal, for programs, and as a comment on a submission."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks.records import escape
from benchmarks.report.formats import markdown as marked
from benchmarks.report.formats.blocks import Block
from benchmarks.verification.board import Against
from benchmarks.verification.findings import Finding, short
from benchmarks.verification.verify import Report, summary

MOST = 50
"""Findings in a comment; the rest is a count."""
PROMISE = (
    "A digest finds accidents and clumsy edits; recomputed costs and bits find what does not "
    "agree with itself; only a rerun finds a lie that does."
)


def headline(report: Report) -> str:
    """The outcome in a line."""
    found = summary(report)
    parts = [
        f"{report.count(level)} {word}"
        for level, word in (
            ("rerun", "rerun"),
            ("checked", "checked"),
            ("older", "older (costs recomputed)"),
        )
        if report.count(level)
    ]
    count = len(report.cases)
    verdict = f"{found['faulty']} with faults" if found["faulty"] else "no fault"
    levels = f": {', '.join(parts)}" if parts else ""
    records = f"{count} record{'s' * (count != 1)}"
    return f"{records}, {verdict}{levels}; {report.seconds:.1f} s"


def text(report: Report) -> str:
    """For a terminal: every fault, notes by their number, and the outcome."""
    lines = [f"FAULT {finding.text}" for finding in report.faults]
    lines += [f"note  {note}" for note in _noted(report.findings)]
    return "\n".join(map(escape.line, [*lines, *report.said, headline(report)]))


def _noted(findings: Sequence[Finding]) -> list[str]:
    """Notes, equal ones once."""
    count = Counter((f.field, f.message) for f in findings if f.note)
    return [
        f"{n} record{'s' * (n != 1)}: {field}: {message}"
        for (field, message), n in count.most_common()
    ]


def as_json(report: Report, against: Against | None) -> dict[str, Any]:
    """For programs."""
    found: dict[str, Any] = {
        "summary": summary(report),
        "findings": [finding.to_json() for finding in report.findings],
        "records": {str(case.path): case.level for case in report.cases},
        "said": report.said,
    }
    if against is not None:
        found["against"] = {
            "known": against.known,
            "equal": against.equal,
            "new": against.new,
            **{
                name: [dict(zip(block.headings, row, strict=True)) for row in block.rows]
                for name, block in (("drift", against.drift), ("ranks", against.ranks))
            },
        }
    return found


def markdown(report: Report, against: Against | None) -> str:
    """A comment on a submission; what is in it cannot be taken for markup."""
    return "\n".join(_markdown(report, against))


def _markdown(report: Report, against: Against | None) -> Iterator[str]:
    sign = "FAULTS" if report.faults else "passed"
    yield f"## juxtabit verify: {sign}"
    yield ""
    yield escape.markdown(headline(report))
    yield ""
    faults = report.faults
    if faults:
        title = "Faults" if len(faults) <= MOST else f"Faults ({MOST} of {len(faults)})"
        rows = [
            [f.key, f.field, f.message, *(_value(v) for v in (f.recorded, f.recomputed))]
            for f in faults[:MOST]
        ]
        headings = ["record", "field", "what is wrong", "recorded", "recomputed"]
        yield from marked.render(Block(title, headings, rows, frozenset(range(5))))
    if against is not None:
        counts = f"{against.known} known cells ({against.equal} equal), {against.new} new."
        yield f"### Against the board: {counts}"
        yield ""
        for block in (against.drift, against.ranks):
            if block.rows:
                yield from marked.render(block, 4)
    yield from marked.notes([*report.said, *_noted(report.findings), PROMISE])


def _value(value: Any) -> str:
    return "" if value is None else short(value)
