"""Three sound records, computed once, and a copy of them for each test to forge."""

import json
import shutil
from types import SimpleNamespace

import pytest

from benchmarks.records.record import digest
from benchmarks.records.store import Store
from benchmarks.suite.cell import compute
from benchmarks.suite.config import cell_of, composed
from benchmarks.suite.identity import key_of, recorded_key

COMMON = (
    "dataset=digits",
    "hardware=bops",
    "budget.like=3",
    "protocol.valid_images=60",
    "protocol.calibration_images=32",
)
CELLS = {
    "uniform": ("framework=uniform",),
    "random": ("framework=random", "framework.evaluations=3"),
    "mohaq": ("framework=mohaq", "framework.population=4", "framework.generations=2"),
}


@pytest.fixture(scope="session")
def sound(tmp_path_factory, cache_folder):
    """A folder of records as ``juxtabit run`` writes them, and their keys by framework."""
    folder = tmp_path_factory.mktemp("sound")
    store, keys = Store(folder / "records"), {}
    for name, overrides in CELLS.items():
        cell = cell_of(composed([*COMMON, *overrides]))
        record = compute(cell, key_of(cell))
        assert record.status == "done", record.error
        store.put(record)
        keys[name] = record.key
    return SimpleNamespace(folder=folder, keys=keys)


@pytest.fixture
def forged(sound, tmp_path):
    """A copy of the sound records, with what a forger does to them."""
    shutil.copytree(sound.folder, tmp_path / "new")
    records = tmp_path / "new" / "records"

    def read(name):
        return json.loads((records / f"{sound.keys[name]}.json").read_text())

    def write(data, *, seal=True, key=False, name=None):
        """Keep a record, with a fitting digest and, where asked for, a fitting key."""
        if key:
            data["key"] = recorded_key(data["cell"], data["identity"])
        data.pop("digest", None)
        if seal:
            data["digest"] = digest(data)
        path = records / f"{name or data['key']}.json"
        path.write_text(json.dumps(data))
        return path

    def change(name, edit, *, seal=True, key=False):
        """Edit a record in place; under another key where it gets one."""
        data = read(name)
        (records / f"{data['key']}.json").unlink()
        edit(data)
        return write(data, seal=seal, key=key)

    return SimpleNamespace(
        root=tmp_path / "new", records=records, read=read, write=write, change=change,
        keys=sound.keys,
    )  # fmt: skip
