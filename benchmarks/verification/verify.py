"""Verifying records: all that can be told without computing a cell again."""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.fingerprints.numerics import library
from benchmarks.verification import origin
from benchmarks.verification.across import check_across
from benchmarks.verification.courses import check_course
from benchmarks.verification.findings import Case, Finding
from benchmarks.verification.grounds import Grounds
from benchmarks.verification.prices import check_prices
from benchmarks.verification.reading import read_all


@dataclass
class Report:
    """What was found.

    Attributes:
        cases: the records.
        stray: faults of files that are no records.
        seconds: how long it took.
        said: what was done beside, one line each (which records were rerun, say).
    """

    cases: list[Case]
    stray: list[Finding]
    seconds: float = 0.0
    said: list[str] = field(default_factory=list)

    @property
    def findings(self) -> list[Finding]:
        """All faults and notes."""
        return [*self.stray, *(finding for case in self.cases for finding in case.findings)]

    @property
    def faults(self) -> list[Finding]:
        """All faults."""
        return [finding for finding in self.findings if not finding.note]

    def count(self, level: str) -> int:
        """Records of a level."""
        return sum(case.level == level for case in self.cases)


def verify(roots: Sequence[Path], *, trust: bool = False, submitted: bool = False) -> Report:
    """Verify the records in some folders or files.

    Args:
        roots: the folders or files.
        trust: whether folders of data and code in files that records name are read, and run.
        submitted: whether records of another version are faults.

    Raises:
        FileNotFoundError: there are no records.
    """
    started = time.perf_counter()
    cases, stray = read_all(roots)
    grounds = Grounds(trust)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of targets, which said it when the cells were run
        for case in cases:
            try:
                _check(case, grounds, submitted)
            except Exception as error:  # a record may hold what nobody thought of
                case.fault("", f"cannot be verified ({type(error).__name__}: {error})")
    check_across(cases)
    for case in cases:
        case.level = None if case.faulty else "checked" if origin.is_current(case) else "older"
    return Report(cases, stray, time.perf_counter() - started)


def _check(case: Case, grounds: Grounds, submitted: bool) -> None:
    origin.check_seal(case)
    origin.check_key(case)
    current = origin.is_current(case)
    if not current:
        _say_version(case, submitted)
    if not origin.check_installed(case):
        return
    if current:
        origin.check_card(case)
        origin.check_environment(case)
    # Nothing that a record names is opened unless it is what its key was taken of.
    if not origin.check_files(case, grounds.trust):
        return
    if current:
        origin.check_code(case)
    check_prices(case, grounds, current)
    check_course(case, grounds, current)


def _say_version(case: Case, submitted: bool) -> None:
    here = library()
    version = f"{here['juxtabit']} (revision {here['revision']})"
    message = f"a record of another version, {origin.version_of(case)}; this is {version}"
    if submitted:
        case.fault("code.juxtabit", message)
    else:
        case.note("code.juxtabit", f"{message}: its card and code are not compared")


def summary(report: Report) -> dict[str, Any]:
    """Counts for people and programs."""
    return {
        "records": len(report.cases),
        "faulty": sum(case.faulty for case in report.cases) + len(report.stray),
        **{level: report.count(level) for level in ("older", "checked", "rerun")},
        "seconds": round(report.seconds, 1),
    }
