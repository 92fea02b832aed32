"""Levels of verification: read, held against the files, and shown."""

import gzip
import json

import pytest

from benchmarks.leaderboard.contents.verification import Verified, together
from benchmarks.records.levels import Level, file_digest, levels_below


def level(name, when):
    return Level(name, when, "0.5.0", "digest")


@pytest.fixture
def folder(tmp_path, records):
    """A results folder with one verified record; returns (folder, record, write)."""
    place = tmp_path / "results" / "suite"
    (place / "records").mkdir(parents=True)
    record = records.made("x")
    path = place / "records" / f"{record.key}.json"
    path.write_text(json.dumps(record.to_json()))

    def write(**entry):
        kept = {"level": "rerun", "when": "2026-11-26", "juxtabit": "0.5.0"}
        entry = {**kept, "sha256": file_digest(path), **entry}
        data = {"version": 1, "records": {record.key: entry}}
        (place / "verification.json").write_text(json.dumps(data))

    return place, record, path, write


def test_levels_are_found_from_every_way_to_name_the_records(folder):
    place, record, path, write = folder
    write()
    expected = {record.key: Level("rerun", "2026-11-26", "0.5.0", file_digest(path))}
    for root in (place.parent, place, place / "records", path):
        assert levels_below(root) == expected


def test_a_record_changed_since_is_not_verified(folder):
    place, _, path, write = folder
    write()
    path.write_text(path.read_text().replace("90.0", "95.0"))
    assert levels_below(place) == {}


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"level": "sworn"}, r"level is 'sworn', none of older, checked, rerun"),
        ({"when": "yesterday"}, r"when is 'yesterday', no day"),
        ({"sha256": ""}, r"sha256 is '': a name is not empty"),
    ],
)
def test_a_false_file_is_named_and_spoils_nothing(folder, entry, message):
    place, _, _, write = folder
    write(**entry)
    faults = []
    with pytest.warns(UserWarning, match=message):
        assert levels_below(place, faults) == {}
    assert len(faults) == 1
    assert "verification.json" in faults[0]


def test_another_version_is_refused(folder):
    place, _, _, _ = folder
    (place / "verification.json").write_text('{"version": 2, "records": {}}')
    with pytest.warns(UserWarning, match="no version that is known"):
        assert levels_below(place) == {}


def test_records_together_are_as_verified_as_the_weakest(records):
    some = records.seeds("x", 90.0)
    rerun, checked = level("rerun", "2026-11-26"), level("checked", "2026-11-20")
    assert together(some, {}) == Verified("unverified", "", "unverified")
    levels = {r.key: rerun for r in some}
    assert together(some, levels) == Verified("rerun", "2026-11-26", "rerun 2026-11-26")
    levels[some[0].key] = checked
    assert together(some, levels) == Verified("checked", "2026-11-20", "2 of 3 rerun 2026-11-20")
    assert together([], levels) == Verified("", "", "")


def test_the_level_is_on_the_board_and_in_the_downloads(records):
    field = records.field()
    levels = {r.key: level("checked", "2026-11-20") for r in field}
    site = records.site_of(field, levels=levels)
    assert b"Verification: checked 2026-11-20: strong" in site["index.html"]
    assert set(json.loads(gzip.decompress(site["downloads/juxtabit.json.gz"]))["verification"]) == {
        "checked"
    }
