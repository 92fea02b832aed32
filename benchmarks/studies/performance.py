"""How fast the hot paths are, measured and written as a page.

``python -m benchmarks.studies.performance`` runs those under ``benchmarks/perf`` and writes
``performance.json`` (the rows, the machine and the versions) and ``performance.md`` (the same to
read). Every row is a ratio of two things measured in turns in one run, as lone times say little
about another machine. ``--guard`` compares a short run with the rows kept there instead and fails
where a ratio has grown far beyond its row.
``--add`` puts the rows of this run (say, peers that an environment of their own holds) among those
kept, which takes the same machine and the same versions of all that both environments have.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.records.store import write_json, write_text
from benchmarks.suite.identity import environment

FOLDER = Path("results")
PERF = Path(__file__).parents[1] / "perf"
MARGIN = 1.6
"""A ratio may grow by this factor over its kept row before the guard fails."""
PACKAGES = ("numpy", "scipy", "pulp", "pyhessian", "brevitas", "nncf", "torchao")


@dataclass(frozen=True)
class Row:
    """One benchmark.

    Attributes:
        name: of the test.
        title: what is compared, from the test's docstring or name.
        ratio: median over the repetitions.
        low: least ratio.
        high: largest ratio.
        seconds: median time of our side on the machine that measured.
        rounds: repetitions.
        goal: what was aimed for, in words.
        note: anything that a reader needs to know.
    """

    name: str
    title: str
    ratio: float
    low: float
    high: float
    seconds: float
    rounds: int
    goal: str = ""
    note: str = ""


def measure(select: str = "", rounds: int = 0) -> list[Row]:
    """Run the benchmarks (those that pytest's ``-k`` selects) in a process of their own.

    Raises:
        RuntimeError: a benchmark failed; its output has been shown.
    """
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "benchmarks.json"
        command = [sys.executable, "-m", "pytest", str(PERF), "-q", "-s", "-p", "no:cacheprovider"]
        command += ["-rs", "--benchmark-only", f"--benchmark-json={report}"]
        command += ["-k", select] if select else []
        command += [f"--perf-rounds={rounds}"] if rounds else []
        # A worker of pytest-xdist would have its children take themselves for workers.
        outer = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
        ended = subprocess.run(command, check=False, env=outer)
        if ended.returncode:
            raise RuntimeError(f"the benchmarks ended with exit code {ended.returncode}")
        if not report.exists():  # every row was skipped
            return []
        return rows_of(json.loads(report.read_text(encoding="utf-8")))


def rows_of(report: Mapping[str, Any]) -> list[Row]:
    """The rows of pytest-benchmark's report; what carries no ratio is left out."""
    rows = []
    for entry in report["benchmarks"]:
        info = entry["extra_info"]
        if "ratio" not in info:
            continue
        name = str(entry["name"]).removeprefix("test_")
        low, high = info["range"]
        rows.append(
            Row(
                name=name,
                title=str(info.get("title") or name.replace("_", " ")),
                ratio=info["ratio"],
                low=low,
                high=high,
                seconds=entry["stats"]["median"],
                rounds=int(info.get("rounds") or entry["stats"]["rounds"]),
                goal=str(info.get("goal", "")),
                note=str(info.get("note", "")),
            )
        )
    return rows


def machine() -> dict[str, Any]:
    """Processor, cores and versions."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {**environment(), **versions}


def page(rows: Sequence[Row], facts: Mapping[str, Any], notes: str = "") -> str:
    """The Markdown page."""
    lines = [
        "# Speed",
        "",
        "`make perf` makes this page. Every figure is a ratio of two things measured in turns in "
        "one run: the median and, in brackets, the range over the repetitions. The seconds are "
        "those of our side on this machine.",
        "",
        "| what | ratio | goal | seconds | repetitions | note |",
        "|:--|--:|--:|--:|--:|:--|",
    ]
    for row in rows:
        lines.append(
            f"| {row.title} | {row.ratio:.3g} [{row.low:.3g}, {row.high:.3g}] | {row.goal} | "
            f"{row.seconds:.3g} | {row.rounds} | {row.note} |"
        )
    lines += ["", "## Machine and versions", ""]
    lines += [f"- {name}: {value}" for name, value in facts.items() if value is not None]
    return "\n".join([*lines, "", notes.strip()]).rstrip() + "\n"


def slower(rows: Sequence[Row], kept: Sequence[Row], margin: float = MARGIN) -> list[str]:
    """The rows whose ratio lies further from the goal's side than the kept one allows.

    A row named ``..._speedup`` is better the larger it is, any other the smaller.
    """
    before = {row.name: row.ratio for row in kept}
    faults = []
    for row in rows:
        old = before.get(row.name)
        if old is None:
            continue
        worse = old / row.ratio if row.name.endswith("_speedup") else row.ratio / old
        if worse > margin:
            faults.append(f"{row.title}: {row.ratio:.3g}, kept is {old:.3g}")
    return faults


def merged(kept: Sequence[Row], measured: Sequence[Row]) -> list[Row]:
    """The kept rows with those of the same name replaced; a new row follows its test's others."""
    rows = list(kept)
    for row in measured:
        names = [old.name for old in rows]
        if row.name in names:
            rows[names.index(row.name)] = row
            continue
        families = [name.partition("[")[0] for name in names]
        same = [i for i, family in enumerate(families, 1) if family == row.name.partition("[")[0]]
        rows.insert(same[-1] if same else len(rows), row)
    return rows


def differing(kept: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Where two environments differ.

    The time, packages that only one of them has, and the build of the system's kernel do not count.
    """
    kept, now = _without_build(kept), _without_build(now)
    faults = []
    for name in {**kept, **now}:
        apart = name in PACKAGES and not (name in kept and name in now)
        if name != "time" and not apart and kept.get(name) != now.get(name):
            faults.append(f"{name}: {kept.get(name)} on the page, {now.get(name)} here")
    return faults


def _without_build(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The facts with Linux-6.18.44-x86_64-with-glibc2.36 as Linux-x86_64-with-glibc2.36."""
    platform = str(facts.get("platform", ""))
    return {**facts, "platform": re.sub(r"^(\w+)-.*-(\w+-with-)", r"\1-\2", platform)}


def _kept(folder: Path) -> tuple[dict[str, Any], list[Row]]:
    data = json.loads((folder / "performance.json").read_text(encoding="utf-8"))
    return data["machine"], [Row(**row) for row in data["rows"]]


def _guard(options: argparse.Namespace) -> int:
    rows = measure(options.select, options.rounds)
    _, kept = _kept(options.out)
    if not {row.name for row in rows} & {row.name for row in kept}:
        print(f"No ratio of this run is kept in {options.out / 'performance.json'}.")
        return 1
    if slower(rows, kept):
        print("Slower than kept; measured once more, as a busy machine is no slow path.")
        rows = measure(options.select, options.rounds)
    faults = slower(rows, kept)
    print("\n".join(faults) or f"{len(rows)} ratios are within {MARGIN} times those kept.")
    return 1 if faults else 0


def _add(options: argparse.Namespace) -> int:
    facts, kept = _kept(options.out)
    now = machine()
    faults = differing(facts, now)
    if faults:
        print("\n".join(["These rows would not belong to the page:", *faults]))
        return 1
    rows = measure(options.select, options.rounds)
    dated = [replace(row, note=f"{row.note}; added {now['time']}".lstrip("; ")) for row in rows]
    return _write(options.out, merged(kept, dated) if rows else [], facts)


def _write(folder: Path, rows: Sequence[Row], facts: Mapping[str, Any]) -> int:
    if not rows:
        print("Nothing was measured; no page is written.")
        return 1
    notes = PERF / "changes.md"
    text = page(rows, facts, notes.read_text(encoding="utf-8") if notes.exists() else "")
    write_json(folder / "performance.json", {"machine": facts, "rows": [asdict(r) for r in rows]})
    write_text(folder / "performance.md", text)
    print(text)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and write, add or guard.

    The exit code is 1 where the guard finds a slower path, where nothing was measured, and where
    the rows to add are of another machine or other versions than the page.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks.studies.performance")
    parser.add_argument("--select", default="", help="pytest's -k")
    parser.add_argument("--rounds", type=int, default=0, help="repetitions of every row")
    parser.add_argument("--out", type=Path, default=FOLDER)
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument("--guard", action="store_true", help="compare with the rows kept in OUT")
    instead.add_argument("--add", action="store_true", help="put the rows among those kept in OUT")
    options = parser.parse_args(argv)
    if options.guard:
        return _guard(options)
    if options.add:
        return _add(options)
    facts = machine()
    return _write(options.out, measure(options.select, options.rounds), facts)


if __name__ == "__main__":
    sys.exit(main())
