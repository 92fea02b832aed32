"""Numbers change only with the revision: golden cells, byte for byte on a machine that is known."""

import json

import pytest

from benchmarks.fingerprints.numerics import REVISION
from benchmarks.suite.config import PROTOCOLS
from frameworks import registry, targets
from tests.golden.cells import built_in, compute_all, is_quick, signature
from tests.golden.kept import COMMAND, RAISE, differences, read, unlisted, update


@pytest.fixture(scope="module")
def kept():
    found = read()
    assert found["revision"] == REVISION, f"the golden cells are of another revision: run {COMMAND}"
    return found


def test_there_is_a_cell_of_every_framework_protocol_and_target(kept):
    wanted = {f"{name} {protocol}" for name in built_in(registry) for protocol in PROTOCOLS}
    wanted |= {f"uniform on {name}" for name in built_in(targets)}
    missing = sorted(wanted - kept["costs"].keys())
    assert not missing, f"no golden cells {missing}: run {COMMAND}"


PARTS = {
    "targets": lambda title: is_quick(title) and " on " in title,
    "protocols": lambda title: is_quick(title) and " on " not in title,
    "others": lambda title: not is_quick(title),
}


@pytest.mark.parametrize(
    "wanted",
    [
        pytest.param(wanted, id=name, marks=pytest.mark.slow if name == "others" else ())
        for name, wanted in PARTS.items()
    ],
)
def test_numbers_change_only_with_the_revision(kept, wanted):
    """Costs on every machine, all numbers on one that the file knows."""
    cells, costs = json.loads(json.dumps(compute_all(wanted)))
    known = {title: cost for title, cost in kept["costs"].items() if wanted(title)}
    assert unlisted(costs, known) == [], f"run {COMMAND}"
    changed = differences(costs, known)
    assert changed == [], f"costs changed: {RAISE}"
    here = signature()
    if here not in kept["machines"]:
        known = "; ".join(kept["machines"])
        pytest.skip(f"costs are as kept; other numbers are those of {known}, this is {here}")
    changed = differences(cells, kept["machines"][here])
    assert changed == [], f"{len(changed)} numbers changed: {RAISE}"


# --- the file

CELLS = {"a": {"digest": "1", "policy": "8/8"}, "b": {"digest": "2", "policy": "4/4"}}
COSTS = {"a": {"limit": 1.0}, "b": {"limit": 2.0}}


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "cells.json"
    assert update(path, "m1", CELLS, COSTS, revision=1) == []
    return path


def with_change(numbers, field, value):
    return {**numbers, "b": {**numbers["b"], field: value}}


def test_a_changed_number_is_named():
    assert differences(CELLS, CELLS) == []
    assert differences(with_change(CELLS, "policy", "2/2"), CELLS) == ["b: policy 4/4 -> 2/2"]
    assert differences(with_change(CELLS, "digest", "3"), CELLS) == ["b: digest 2 -> 3"]


@pytest.mark.parametrize(
    ("cells", "costs"),
    [
        (with_change(CELLS, "digest", "3"), COSTS),
        (CELLS, with_change(COSTS, "limit", 2.0000000000000004)),
    ],
)
def test_changed_numbers_are_not_written_under_the_same_revision(path, cells, costs):
    before = path.read_bytes()
    assert len(update(path, "m1", cells, costs, revision=1)) == 1
    assert path.read_bytes() == before
    assert update(path, "m1", cells, costs, revision=2) == []
    assert read(path) == {"revision": 2, "costs": costs, "machines": {"m1": cells}}


def test_another_machine_has_numbers_of_its_own_until_the_revision_is_raised(path):
    other = with_change(CELLS, "digest", "3")
    assert update(path, "m2", other, COSTS, revision=1) == []
    assert read(path)["machines"] == {"m1": CELLS, "m2": other}
    assert update(path, "m2", CELLS, COSTS, revision=2) == []
    assert read(path)["machines"] == {"m2": CELLS}


def test_new_and_dropped_cells_need_no_revision(path):
    cells, costs = {"a": CELLS["a"], "c": CELLS["b"]}, {"a": COSTS["a"], "c": COSTS["b"]}
    assert update(path, "m1", cells, costs, revision=1) == []
    assert read(path)["costs"] == costs
    assert unlisted(costs, COSTS) == ["b", "c"]
