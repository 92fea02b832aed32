import json
import math
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.records.record import CorruptRecord, Record, digest
from benchmarks.records.store import Store, find_records, finite, read_record, write_json


def record(key="abc", status="skipped", **more):
    return Record(key=key, cell={"framework": {"name": "x"}}, status=status, **more)


def test_a_record_survives_the_store(tmp_path):
    store = Store(tmp_path)
    kept = record(reason="too small", notes={"a": [1.5, None]})
    store.put(kept)
    assert store.get("abc") == kept
    assert store.get("missing") is None
    assert [p.name for p in tmp_path.iterdir()] == ["abc.json"]


def test_a_failed_write_leaves_the_old_record_and_no_rest(tmp_path):
    store = Store(tmp_path)
    store.put(record(reason="old"))
    with pytest.raises(ValueError, match="JSON"):
        store.put(record(reason="new", notes={"loss": float("nan")}))
    assert store.get("abc").reason == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["abc.json"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read"),
        ("[]", "not a JSON object"),
        ('{"key": "abc"}', "missing fields"),
        ('{"key":"abc","cell":{},"status":"done","schema":99}', "schema 99"),
        ('{"key":"abc","cell":{},"status":"lost","schema":1}', "none of"),
        ('{"key":"abc","cell":{},"status":"done","schema":1}', "not a percentage"),
        ('{"key":"other","cell":{},"status":"skipped","schema":1}', "holds the record other"),
        ('{"key":"abc","cell":{},"status":"skipped","schema":1,"extra":0}', "unknown fields"),
    ],
)
def test_corrupt_records_are_refused_and_named(tmp_path, text, message):
    path = tmp_path / "abc.json"
    path.write_text(text)
    with pytest.raises(CorruptRecord, match=message) as caught:
        read_record(path)
    assert str(path) in str(caught.value)
    store = Store(tmp_path)
    assert store.get("abc") is None
    assert path in store.corrupt


def test_a_finished_record_needs_a_policy():
    data = record(status="skipped").to_json() | {"status": "done", "accuracy": {"final": 50.0}}
    with pytest.raises(CorruptRecord, match="needs a policy"):
        Record.from_json(data)


def test_one_corrupt_record_does_not_hide_the_others(tmp_path):
    folder = tmp_path / "suite" / "records"
    Store(folder).put(record())
    (folder / "bad.json").write_text("not json")
    with pytest.warns(UserWarning, match=r"bad\.json"):
        found = find_records(tmp_path)
    assert [r.key for r in found] == ["abc"]


def test_records_behind_links_are_found_once_and_loops_end(tmp_path):
    elsewhere, root = tmp_path / "disk" / "suite" / "records", tmp_path / "results"
    elsewhere.mkdir(parents=True)
    root.mkdir()
    Store(elsewhere).put(record("a"))
    (root / "suite").symlink_to(elsewhere.parent)
    (root / "again").symlink_to(elsewhere.parent)
    (elsewhere.parent / "up").symlink_to(root)
    assert [found.key for found in find_records(root)] == ["a"]


def test_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    store = Store(tmp_path / "records")
    store.folder.mkdir()
    store.put(record("a"))
    (tmp_path / "closed").mkdir()
    scan = os.scandir

    def closed(path):
        if os.fspath(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", closed)
    faults = []
    with pytest.warns(UserWarning, match=r"left out a folder: .*closed: cannot be read \(Perm"):
        assert len(find_records(tmp_path, faults)) == 1
    assert len(faults) == 1


def test_an_empty_folder_is_said_so(tmp_path):
    with pytest.raises(FileNotFoundError, match="no records in"):
        find_records(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes anywhere")
def test_an_unwritable_folder_is_an_error(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(OSError, match="denied"):
        write_json(tmp_path / "x.json", {})


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=10,
)


@given(st.dictionaries(st.text(max_size=5), plain, min_size=2))
def test_digest_ignores_the_order_of_keys(data):
    turned = dict(reversed(data.items()))
    assert digest(data) == digest(turned)
    assert digest(data) != digest({**data, "one more key": 0})


@given(plain)
def test_what_is_written_is_what_is_read(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("store") / "x.json"
    write_json(path, data)
    assert json.loads(path.read_text()) == data


@given(plain)
def test_what_json_does_not_have_becomes_none(data):
    assert finite(data) == data
    assert finite({"a": [math.inf, (1.5, math.nan)], "b": data}) == {
        "a": [None, [1.5, None]],
        "b": data,
    }
