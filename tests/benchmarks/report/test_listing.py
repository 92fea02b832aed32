"""The list of frameworks: quick, without torch, and never out of date."""

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from benchmarks.report import listing as module
from benchmarks.report.listing import listing, read


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("JUXTABIT_CACHE", str(tmp_path))
    return tmp_path / "listing"


def test_a_second_listing_is_the_same_and_reads_no_registry(monkeypatch):
    first = listing()
    monkeypatch.setattr(module, "read", lambda: pytest.fail("read again"))
    assert listing() == json.loads(json.dumps(first, default=str))
    assert {"haq", "random"} <= {entry["name"] for entry in first["frameworks"]}


def test_a_kept_list_needs_neither_torch_nor_a_framework(tmp_path):
    code = (
        "import sys; from benchmarks.cli import main; code = main(['frameworks']);"
        "loaded = {'torch', 'frameworks', 'hydra', 'numpy'} & set(sys.modules);"
        "sys.exit(code or (3 if loaded else 0))"
    )
    environment = {**os.environ, "JUXTABIT_CACHE": str(tmp_path)}
    runs = [
        subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True)
        for _ in range(2)
    ]
    assert [run.returncode for run in runs] == [3, 0]
    assert runs[0].stdout == runs[1].stdout != b""


def test_a_changed_file_makes_a_new_list(tmp_path, monkeypatch):
    plugin = tmp_path / "my_plugin"
    plugin.mkdir()
    (plugin / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    point = SimpleNamespace(name="mine", value="my_plugin.mine", module="my_plugin.mine", dist=None)
    before = module._fingerprint()
    monkeypatch.setattr(module.importlib.metadata, "entry_points", lambda group: [point])
    with_plugin = module._fingerprint()
    (plugin / "mine.py").write_text("x = 1")
    changed = module._fingerprint()
    assert len({before, with_plugin, changed}) == 3
    assert module._fingerprint() == changed


def test_what_is_unavailable_is_looked_for_again(cache, monkeypatch):
    broken = {"name": "x", "distribution": "y", "error": "ImportError: z"}
    monkeypatch.setattr(module, "read", lambda: {"frameworks": [], "unavailable": [broken]})
    assert listing()["unavailable"] == [broken]
    assert not cache.exists()
    monkeypatch.setattr(module, "read", lambda: {"frameworks": [], "unavailable": []})
    assert listing()["unavailable"] == []
    assert len(list(cache.iterdir())) == 1


def test_a_damaged_or_unwritable_cache_only_costs_time(cache):
    whole = listing()
    (kept,) = cache.iterdir()
    kept.write_text("{")
    assert listing() == whole == read()
    kept.unlink()
    cache.rmdir()
    cache.write_text("a file in the way")
    assert listing() == whole


@pytest.mark.parametrize(
    "content", ["", "null", "[]", '{"frameworks": 3, "unavailable": []}', '{"listing": {}}']
)
def test_a_list_that_is_not_what_was_written_is_made_again(cache, content):
    whole = listing()
    (kept,) = cache.iterdir()
    kept.write_text(content)
    assert json.loads(json.dumps(listing(), default=str)) == json.loads(
        json.dumps(whole, default=str)
    )
    assert json.loads(kept.read_text())["listing"]["frameworks"]


def test_a_list_that_others_can_write_to_is_made_again(cache):
    listing()
    (kept,) = cache.iterdir()
    foreign = kept.read_text().replace("haq", "hoax")
    kept.write_text(foreign)
    kept.chmod(0o666)
    assert {"haq"} <= {entry["name"] for entry in listing()["frameworks"]}
    assert kept.stat().st_mode & 0o777 == 0o644


def test_an_editors_lock_in_a_package_stops_no_list(tmp_path, monkeypatch):
    home = tmp_path / "juxtabit_locked"
    home.mkdir()
    (home / "__init__.py").write_text("")
    (home / ".#x.py").symlink_to("user@host.1234")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert list(module._package_files("juxtabit_locked")) == [home / "__init__.py"] * 2
