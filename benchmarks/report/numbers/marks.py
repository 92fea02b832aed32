"""What a row's searches have to say beside their numbers: signs at its name, and footnotes.

- † did not learn: the search's own objective (``notes["learning"]``, see `frameworks.Learning`)
  showed no improvement, so its policies owe nothing to what the method learns;
- ‡ collapsed (``notes["collapsed"]``): only networks at chance were within the budget;
- § a remark of the search (``notes["remark"]``), such as that no uniform policy fits the budget;
- ¶ the search returned trained weights that the protocol does not use (``weights["dropped"]``).

Notes are a plugin's own: what has another shape says nothing. One more sign, • for the best of a
group and all that are not told apart from it, is of numbers: see
`benchmarks.report.numbers.comparisons`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.records.record import Record
from benchmarks.report.numbers.rows import Row

UNLEARNED, COLLAPSED, REMARK, DROPPED, BEST = "†", "‡", "§", "¶", "•"
BEST_NOTE = (
    f"{BEST} the best of its group, and all that are not told apart from it: the interval of their "
    "difference (vs best) includes zero. The intervals of the accuracies do not decide that."
)
MARK_NOTE = (
    f"{UNLEARNED} a search that did not learn: its own objective showed no improvement at 5 %; "
    f"{COLLAPSED} one that collapsed; {REMARK} see the remark below the table; {DROPPED} one whose "
    "trained weights the protocol does not use: its policy is measured without them."
)


@dataclass(frozen=True)
class Mark:
    """A sign, and what it means for a row."""

    sign: str
    text: str


def learning(record: Record) -> Mapping[str, Any] | None:
    """What a record says of its search's learning, if it does."""
    found = record.notes.get("learning")
    if isinstance(found, Mapping) and isinstance(found.get("improved"), bool):
        return found
    return None


def objective(found: Mapping[str, Any]) -> str:
    """The name of what a search improves."""
    return str(found.get("objective") or "unnamed")


def collapsed(record: Record) -> bool:
    """Whether a search says that it found only collapsed networks."""
    return record.notes.get("collapsed") is True


def dropped(record: Record) -> bool:
    """Whether a search's trained weights were not used."""
    return record.weights.get("dropped") is True


def remark(record: Record) -> str:
    """What else a search says of itself, or nothing."""
    found = record.notes.get("remark")
    return found.strip() if isinstance(found, str) else ""


def marks(row: Row) -> list[Mark]:
    """The marks of a row, one for each sign and text."""
    found: list[Mark] = []
    learned = [said for record in row.records if (said := learning(record)) is not None]
    failed = [said for said in learned if not said["improved"]]
    if failed:
        names = ", ".join(dict.fromkeys(map(objective, failed)))
        found.append(
            Mark(
                UNLEARNED,
                f"did not learn in {_of(len(failed), len(learned))}: its own objective ({names}) "
                "showed no improvement at 5 %",
            )
        )
    bad = sum(map(collapsed, row.records))
    if bad:
        found.append(
            Mark(
                COLLAPSED,
                f"collapsed in {_of(bad, len(row.records))}: only networks near chance were "
                "within the budget",
            )
        )
    remarks = [text for record in row.records if (text := remark(record))]
    found += [
        Mark(REMARK, f"{text} ({_of(remarks.count(text), len(row.records))})")
        for text in dict.fromkeys(remarks)
    ]
    unused = sum(map(dropped, row.records))
    if unused:
        found.append(
            Mark(
                DROPPED,
                f"trained weights in its search ({_of(unused, len(row.records))}), which this "
                "protocol does not use",
            )
        )
    return found


def _of(count: int, total: int) -> str:
    return f"{count} of {total} seed{'s' * (total != 1)}"


def signs(row: Row) -> str:
    """The signs of a row, to stand at its name."""
    return BEST * bool(row.best) + "".join(dict.fromkeys(mark.sign for mark in marks(row)))


def footnotes(rows: Sequence[Row]) -> list[str]:
    """One line for each mark of some rows."""
    return [f"{row.label} {mark.sign} {mark.text}." for row in rows for mark in marks(row)]
