"""Computing records again: the one thing that finds a lie which agrees with itself."""

from __future__ import annotations

import random
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.fingerprints.numerics import PRECISIONS, place_named
from benchmarks.records.record import Record
from benchmarks.suite.run import run
from benchmarks.verification.findings import Case, differences
from benchmarks.verification.verify import Report

TOLERANCE = 1.0
"""Points by which accuracies may differ on another machine, or with other versions."""
_MACHINE = ("torch", "processor", "threads", "kernels", "gpu")
_COUNTS = ("policies", "images_forward", "images_backward")


def rerun(
    report: Report,
    count: int,
    seed: int = 0,
    *,
    tolerance: float = TOLERANCE,
    workers: int = 0,
) -> None:
    """Compute some records again and add what differs to their findings.

    Args:
        report: verified records; of those without a fault and of this version, some are drawn.
        count: how many; all, if there are fewer.
        seed: of the draw.
        tolerance: points by which accuracies may differ where machine or versions do.
        workers: processes; 0: one a core.
    """
    started = time.perf_counter()
    fit = sorted(
        (c for c in report.cases if c.level == "checked" and c.record.status == "done"),
        key=lambda case: case.record.key,
    )
    drawn = random.Random(seed).sample(fit, min(count, len(fit)))
    report.said.append(
        f"reran {len(drawn)} of {len(fit)} finished records of this version (seed {seed})"
        + "".join(f"; {case.record.key}" for case in drawn)
    )
    for members in _alike(drawn):
        with tempfile.TemporaryDirectory(prefix="juxtabit-rerun-") as folder:
            found = _computed(members, Path(folder), workers)
        for case, again in zip(members, found, strict=True):
            _compare(case, again, tolerance)
            case.level = None if case.faulty else "rerun"
    report.seconds += time.perf_counter() - started


def _alike(cases: Sequence[Case]) -> list[list[Case]]:
    """Cases of the same threads, device and precision, which one run can compute."""
    found: dict[str, list[Case]] = defaultdict(list)
    for case in cases:
        found[str(_numerics(case))].append(case)
    return list(found.values())


def _numerics(case: Case) -> tuple[int, str, str]:
    said = case.record.identity.get("numerics", {})
    amp = str(said.get("amp", "off"))
    device = str(said.get("device", "cpu"))
    try:
        place_named(device, amp)
    except ValueError:  # there is none here; the tolerance is for that
        device, amp = "cpu", amp if amp in PRECISIONS else "off"
    return int(said.get("threads") or 1), device, amp


def _computed(cases: Sequence[Case], folder: Path, workers: int) -> list[Record | str]:
    """The records of the same cells, computed now; or why one cannot be, in words."""
    threads, device, amp = _numerics(cases[0])

    def computed(some: Sequence[Case]) -> list[Record]:
        cells = [case.record.cell for case in some]
        outcome = run(cells, folder, workers=workers, threads=threads, device=device, amp=amp)
        return [next(r for r in outcome.records if r.cell == cell) for cell in cells]

    try:
        return [*computed(cases)]
    except (ValueError, OSError) as error:
        if len(cases) == 1:
            return [str(error)]
    return [_computed([case], folder, workers)[0] for case in cases]


def _compare(case: Case, again: Record | str, tolerance: float) -> None:
    if isinstance(again, str) or again.status != "done":
        reason = again if isinstance(again, str) else again.reason or again.error or ""
        last = reason.strip().splitlines()[-1:] or ["no message"]
        case.fault("status", f"cannot be computed again: {last[0]}", case.record.status)
        return
    found = differences("", _outcome(case.record), _outcome(again))
    if same_machine(case.record, again):
        for place, ours, theirs in found:
            message = "differs when it is computed again on the same machine and versions"
            case.fault(place.lstrip("."), message, ours, theirs)
        return
    for place, ours, theirs in found:
        _judge(case, place.lstrip("."), ours, theirs, tolerance)


def _judge(case: Case, place: str, ours: Any, theirs: Any, tolerance: float) -> None:
    """A difference between machines: a fault if it is one of accuracy and beyond the tolerance."""
    percent = place in (f"accuracy.{k}" for k in ("float", "valid", "ptq", "fine_tuned", "final"))
    if percent and (None in (ours, theirs) or abs(ours - theirs) > tolerance):
        message = f"differs by more than {tolerance:g} points when it is computed again"
        case.fault(place, message, ours, theirs)
    else:
        by = f" by {abs(ours - theirs):.3g} points" if percent else ""
        case.note(place, f"differs{by} on this machine")


def same_machine(record: Record, again: Record) -> bool:
    """Whether two records are to be equal to the last digit."""
    here = {name: again.environment.get(name) for name in _MACHINE}
    said = {name: record.environment.get(name) for name in _MACHINE}
    return record.key == again.key and said == here


def _outcome(record: Record) -> dict[str, Any]:
    """What a cell found, without what the clock and memory say."""
    curve = [{k: v for k, v in point.items() if k != "seconds"} for point in record.curve]
    return {
        "policy": record.policy,
        "bits": record.bits,
        "costs": record.costs,
        "budget": {"within": record.budget.get("within")},
        "accuracy": record.accuracy,
        "search": {name: record.search.get(name) for name in _COUNTS},
        "curve": curve,
        "front": record.front,
    }
