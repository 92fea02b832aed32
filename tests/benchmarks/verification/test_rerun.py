"""Reruns find what agrees with itself and is not so; levels say how far each record was taken."""

import json

import pytest

from benchmarks.records.levels import Level, file_digest, levels_that_hold, read_levels
from benchmarks.suite.cell import compute
from benchmarks.suite.identity import key_of
from benchmarks.suite.run import Outcome
from benchmarks.verification import rerun as module
from benchmarks.verification.kept import keep_levels
from benchmarks.verification.rerun import rerun
from benchmarks.verification.verify import verify


@pytest.fixture
def in_process(monkeypatch):
    """Runs without worker processes; a list of the cells that were computed."""
    computed = []

    def run(cells, folder, **_):
        computed.extend(cells)
        return Outcome([compute(cell, key_of(cell)) for cell in cells], len(cells))

    monkeypatch.setattr(module, "run", run)
    return computed


def lie(data):
    """Two more images of 449, everywhere: it agrees with itself."""
    for name in ("ptq", "final"):
        data["accuracy"][name] = 100 * (round(data["accuracy"][name] * 4.49) + 2) / 449


def test_a_consistent_lie_is_found_by_a_rerun_alone(forged, in_process):
    forged.change("random", lie)
    report = verify([forged.root])
    assert report.faults == []
    rerun(report, 9)
    assert len(in_process) == 3
    found = report.faults
    assert {f.key for f in found} == {forged.keys["random"]}
    assert {f.field for f in found} == {"accuracy.final", "accuracy.ptq"}
    assert all("on the same machine" in f.message for f in found)
    assert found[0].recorded - found[0].recomputed == pytest.approx(200 / 449)
    levels = {case.record.key: case.level for case in report.cases}
    assert levels.pop(forged.keys["random"]) is None
    assert set(levels.values()) == {"rerun"}


@pytest.mark.parametrize(("tolerance", "passes"), [(1.0, True), (0.4, False)])
def test_elsewhere_accuracies_may_differ_by_the_tolerance(tolerance, passes, forged, in_process):
    def edit(data):
        lie(data)
        data["environment"]["processor"] = "another"

    forged.change("random", edit)
    report = verify([forged.root])
    rerun(report, 9, tolerance=tolerance)
    assert (report.faults == []) is passes
    notes = [f for f in report.findings if f.note and f.field == "accuracy.final"]
    assert [f.message for f in notes] == ["differs by 0.445 points on this machine"] * passes


def test_the_draw_is_that_of_the_seed(sound, monkeypatch):
    known = [case.record for case in verify([sound.folder]).cases]
    monkeypatch.setattr(module, "run", lambda cells, *_, **__: Outcome(known, len(cells)))
    drawn = []
    for seed in (1, 1, 2, 3, 4, 5):
        report = verify([sound.folder])
        rerun(report, 1, seed)
        drawn.append([c.record.key for c in report.cases if c.level == "rerun"])
        assert drawn[-1][0] in report.said[0]
        assert f"seed {seed}" in report.said[0]
    assert drawn[0] == drawn[1]
    assert len({tuple(keys) for keys in drawn}) > 1


def test_a_cell_that_cannot_be_computed_is_a_fault_of_its_own(sound, monkeypatch):
    def run(cells, folder, **_):
        if any(cell["framework"]["name"] == "random" for cell in cells):
            raise ValueError("dataset digits is not here")
        return Outcome([compute(cell, key_of(cell)) for cell in cells], len(cells))

    monkeypatch.setattr(module, "run", run)
    report = verify([sound.folder])
    rerun(report, 3)
    (fault,) = report.faults
    assert fault.key == sound.keys["random"]
    assert "dataset digits is not here" in fault.message
    assert report.count("rerun") == 2


def test_levels_hold_as_long_as_the_file(forged, in_process):
    report = verify([forged.root])
    rerun(report, 1, 1)
    keep_levels(report)
    path = forged.root / "verification.json"
    data = json.loads(path.read_text())
    assert data["version"] == 1
    assert set(data["records"]) == set(forged.keys.values())
    entry = data["records"][forged.keys["random"]]
    assert set(entry) == {"level", "when", "juxtabit", "sha256"}
    assert entry["sha256"] == file_digest(forged.records / f"{forged.keys['random']}.json")
    files = sorted(forged.records.glob("*.json"))
    levels = levels_that_hold(files)
    assert sorted(level.level for level in levels.values()) == ["checked", "checked", "rerun"]
    (again,) = [key for key, level in levels.items() if level.level == "rerun"]
    keep_levels(verify([forged.root]))  # a plain check takes nothing back
    assert levels_that_hold(files)[again].level == "rerun"
    (forged.records / f"{again}.json").write_text(
        (forged.records / f"{again}.json").read_text() + "\n"
    )
    assert again not in levels_that_hold(files)
    keep_levels(verify([forged.root]))  # it is the same record, in a file that is another
    assert levels_that_hold(files)[again].level == "checked"


def test_a_record_with_a_fault_loses_its_level(forged):
    keep_levels(verify([forged.root]))
    forged.change("random", lambda data: data["costs"].update(bops=1.0))
    keep_levels(verify([forged.root]))
    assert set(read_levels(forged.records)) == set(forged.keys.values()) - {forged.keys["random"]}


def test_levels_of_records_that_were_not_looked_at_stay(forged):
    keep_levels(verify([forged.root]))
    before = read_levels(forged.records)
    one = forged.records / f"{forged.keys['random']}.json"
    keep_levels(verify([one]))
    assert read_levels(forged.records) == before


@pytest.mark.parametrize(
    "content", ["[]", '{"version": 2, "records": {}}', '{"version": 1, "records": {"k": {}}}']
)
def test_a_file_of_levels_that_is_none_is_named(content, forged):
    (forged.root / "verification.json").write_text(content)
    with pytest.raises(ValueError, match=r"verification\.json: .*remove it"):
        read_levels(forged.records)


def test_a_flat_folder_has_its_levels_within_and_they_are_no_record(forged, tmp_path):
    from benchmarks.records.store import find_records

    flat = tmp_path / "flat"
    forged.records.rename(flat)
    keep_levels(verify([flat]))
    assert (flat / "verification.json").is_file()
    assert len(find_records(flat)) == 3
    assert all(isinstance(level, Level) for level in read_levels(flat).values())
