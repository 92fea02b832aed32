"""What only several records together show: doubles, copies, float networks that disagree."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Sequence

from benchmarks.records.record import digest
from benchmarks.verification.findings import Case


def check_across(cases: Sequence[Case]) -> None:
    """Faults of records that other records give away."""
    _doubles(cases)
    _copies(cases)
    _float_networks(cases)


def _grouped(
    cases: Sequence[Case], told: Callable[[Case], Hashable | None]
) -> dict[Hashable, list[Case]]:
    found: dict[Hashable, list[Case]] = defaultdict(list)
    for case in cases:
        if (said := told(case)) is not None:
            found[said].append(case)
    return found


def _doubles(cases: Sequence[Case]) -> None:
    """The same cell twice: under one key in two folders, or under two keys."""

    def cell(case: Case) -> Hashable:
        return digest({"cell": case.record.cell, "identity": case.record.identity})

    for told in (lambda case: case.record.key, cell):
        for first, *others in _grouped(cases, told).values():
            for other in others:
                if not any(f.message.startswith("the same cell") for f in other.findings):
                    other.fault("key", f"the same cell is in {first.path}, too")


def _copies(cases: Sequence[Case]) -> None:
    """Another cell with the same times to the last digit: no two searches take the same."""

    def measured(case: Case) -> Hashable | None:
        record = case.record
        if record.status != "done" or not record.timings.get("total"):
            return None
        return digest([record.timings, record.search.get("seconds"), record.accuracy])

    for first, *others in _grouped(cases, measured).values():
        for other in others:
            if other.record.key != first.record.key:
                other.fault("timings", f"those of another cell, {first.path}: a copy of it")


def _float_networks(cases: Sequence[Case]) -> None:
    """One float network on the same images, by the same numerics, has one accuracy."""

    def network(case: Case) -> Hashable | None:
        record = case.record
        known = record.data.get("checkpoint"), record.data.get("dataset")
        if None in known or record.accuracy.get("float") is None:
            return None
        objective = record.cell["protocol"].get("objective", "accuracy")
        return (*known, objective == "accuracy", digest(record.identity.get("numerics")))

    for members in _grouped(cases, network).values():
        usual, count = Counter(c.record.accuracy["float"] for c in members).most_common(1)[0]
        for case in members:
            said = case.record.accuracy["float"]
            if said != usual and 2 * count > len(members):
                message = f"differs from that of {count} other records of the same float network"
                case.fault("accuracy.float", message, said, usual)
