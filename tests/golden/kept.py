"""The file of golden numbers: reading, comparing, and what may be written over it."""

import json
from pathlib import Path

from benchmarks.fingerprints.numerics import REVISION
from benchmarks.records.store import write_json

FILE = Path(__file__).parent / "cells.json"
COMMAND = "python -m tests.golden"
RAISE = (
    f"raise REVISION in benchmarks/fingerprints/numerics.py and make the file anew with '{COMMAND}'"
)


def read(path=FILE):
    """The kept numbers; empty ones if there is no file."""
    if not path.exists():
        return {"revision": REVISION, "costs": {}, "machines": {}}
    return json.loads(path.read_text(encoding="utf-8"))


def differences(made, kept):
    """What changed, a line each: ``name: field old -> new``. New and dropped cells are no change.

    ``made`` and ``kept`` are numbers by the name of a cell.
    """
    lines = []
    for name in sorted(made.keys() & kept.keys()):
        fields = sorted(made[name].keys() | kept[name].keys())
        changed = [f for f in fields if made[name].get(f) != kept[name].get(f)]
        shown = [field for field in changed if field != "digest"] or changed
        lines += [f"{name}: {f} {kept[name].get(f)} -> {made[name].get(f)}" for f in shown]
    return lines


def unlisted(made, kept):
    """Cells that only one side has."""
    return sorted(made.keys() ^ kept.keys())


def update(path, signature, cells, costs, revision=REVISION):
    """Write numbers to the file, unless they differ from its own under the same revision.

    A raised revision drops the numbers of all other machines. Returns the refused differences.
    """
    # Numbers are compared as JSON gives them back.
    cells, costs = json.loads(json.dumps([cells, costs]))
    kept = read(path)
    if kept["revision"] == revision:
        changed = differences(costs, kept["costs"])
        changed += differences(cells, kept["machines"].get(signature, {}))
        if changed:
            return changed
    else:
        kept["machines"] = {}
    machines = {**kept["machines"], signature: cells}
    write_json(path, {"revision": revision, "costs": costs, "machines": machines})
    return []
