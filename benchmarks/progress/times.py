"""How long a run will take, from cells of the same kind that are done: here, or in records.

A cell takes seconds or hours, as its framework, model, dataset and protocol have it: of a kind
that none is known of nothing is said, in the place of a mean over others.
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

AXES = ("framework", "model", "dataset", "protocol")
"""What a kind is made of: cells of a kind differ in seed, budget and hardware at most."""
STAGES = ("search", "curve", "measure")
"""Stages whose seconds add up to what a cell takes beside the making of its float network."""
MOST = 3000
"""Records that are read, newest first."""
FASTER, SLOWER = 0.1, 10.0
"""How much faster or slower than that of the records this machine is taken to be at most."""
OVERDUE = 0.1
"""A cell that takes longer than expected is taken to need this share of its time in addition."""

TELLING = 60
"""Seconds that cells of known kinds must take to be told where there are others."""


def duration(seconds: float) -> str:
    """``45 s``, ``12 min`` or ``3 h 20 min``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


@dataclass(frozen=True)
class Left:
    """The time left.

    Attributes:
        seconds: until all cells are done whose kind is known.
        unknown: how many cells there are of other kinds.
        known: how many are known.
    """

    seconds: float
    unknown: int = 0
    known: int = 1

    def __str__(self) -> str:
        if not self.known or (self.unknown and self.seconds < TELLING):
            return "time left not known yet"
        return f"{'over' if self.unknown else 'about'} {duration(self.seconds)} left"


@dataclass(frozen=True)
class Running:
    """A cell under way.

    Attributes:
        cell: its configuration.
        spent: seconds since its search began; 0 before.
        more: seconds that its stage, such as a pretraining, needs in addition; None: not known.
        searches: whether the search has begun.
    """

    cell: Mapping[str, Any]
    spent: float = 0.0
    more: float | None = None
    searches: bool = True


@dataclass
class _Kind:
    """Cells of one kind: its entries, and what they took, here and in records."""

    entries: dict[str, Any]
    here: list[float] = field(default_factory=list)
    past: list[float] = field(default_factory=list)


class Times:
    """What cells of each kind take."""

    def __init__(self) -> None:
        self._kinds: dict[str, _Kind] = {}
        self._found: dict[str, tuple[float | None, float | None]] = {}

    def learn(self, cell: Mapping[str, Any], seconds: float, *, here: bool) -> None:
        """A cell took so long, in this run or in an earlier one."""
        kind = self._kinds.setdefault(_signature(cell), _Kind(_entries(cell)))
        (kind.here if here else kind.past).append(seconds)
        self._found.clear()

    def expected(self, cell: Mapping[str, Any]) -> float | None:
        """Seconds that a cell will take; None: none of its kind is known."""
        here, past = self._means(cell)
        if here is not None:
            return here
        return None if past is None else past * self._pace()

    def left(
        self,
        waiting: Sequence[Mapping[str, Any]],
        running: Iterable[Running],
        workers: int,
    ) -> Left:
        """The time until all are done, by workers that each take the next in order."""
        known = unknown = 0
        free: list[float] = []
        for one in running:
            seconds = self._rest(one)
            known, unknown = known + (seconds is not None), unknown + (seconds is None)
            free.append(seconds or 0.0)
        free += [0.0] * max(0, workers - len(free))
        heapq.heapify(free)
        ends = list(free)
        for cell in waiting:
            expected = self.expected(cell)
            if expected is None:
                unknown += 1
                continue
            known += 1
            ends.append(heapq.heappop(free) + expected)
            heapq.heappush(free, ends[-1])
        return Left(max(ends, default=0.0), unknown, known)

    def _rest(self, one: Running) -> float | None:
        """Seconds that a cell under way still needs."""
        expected = self.expected(one.cell)
        if not one.searches:
            return None if expected is None else expected + (one.more or 0.0)
        if expected is not None:
            return max(expected - one.spent, OVERDUE * one.spent)
        # The whole of a search says nothing of a training after it.
        trains = one.cell["protocol"]["name"] != "ptq"
        return None if trains else one.more

    def _means(self, cell: Mapping[str, Any]) -> tuple[float | None, float | None]:
        name = _signature(cell)
        if name not in self._found:
            own = self._kinds.get(name)
            entries = _entries(cell)
            # Records of other versions may lack hyper-parameters, or have more.
            alike = (
                [own] if own else [k for k in self._kinds.values() if _agree(k.entries, entries)]
            )
            here = [x for kind in alike for x in kind.here]
            past = [x for kind in alike for x in kind.past]
            self._found[name] = (_mean(here), _mean(past))
        return self._found[name]

    def _pace(self) -> float:
        """How much longer cells take here than those of the same kind took in records."""
        both = [kind for kind in self._kinds.values() if kind.here and kind.past]
        past = sum(len(kind.here) * (_mean(kind.past) or 0.0) for kind in both)
        here = sum(sum(kind.here) for kind in both)
        return min(max(here / past, FASTER), SLOWER) if past > 0 and here > 0 else 1.0


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _entries(cell: Mapping[str, Any]) -> dict[str, Any]:
    return {axis: cell[axis] for axis in AXES}


def _signature(cell: Mapping[str, Any]) -> str:
    return json.dumps(_entries(cell), sort_keys=True, default=str)


def _agree(a: Any, b: Any) -> bool:
    """Whether two entries say the same where both say something."""
    if isinstance(a, dict) and isinstance(b, dict):
        return all(_agree(a[key], b[key]) for key in a.keys() & b.keys())
    return bool(a == b)


def seconds_of(status: str, timings: Mapping[str, float]) -> float | None:
    """What a cell takes, by its record; None where that says nothing of others."""
    if status == "failed":
        return None
    return sum(timings.get(stage, 0.0) for stage in STAGES)


def recorded(folder: Path) -> Iterator[tuple[dict[str, Any], float]]:
    """Cells, and what they took, of the records of a suite and of those beside it."""
    paths = [*folder.glob("records/*.json"), *folder.parent.glob("*/records/*.json")]
    for path in sorted(set(paths), key=_age)[:MOST]:
        try:
            data = json.loads(path.read_bytes())
            seconds = seconds_of(data["status"], data["timings"])
            if seconds is not None and all("name" in data["cell"][axis] for axis in AXES):
                yield data["cell"], float(seconds)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            continue  # whether it is a record is not asked here


def _age(path: Path) -> float:
    try:
        return -path.stat().st_mtime
    except OSError:
        return 0.0
