"""What the command says of plugins that are broken, and of values that do not fit."""

import json

import pytest

from benchmarks.cli import main
from benchmarks.data.load import datasets
from benchmarks.models.build import ModelConfig, create, models
from benchmarks.report import listing
from frameworks import Origin, UnknownName, registry, schemes, targets
from frameworks.core.plugins.faults import Unavailable

FAULT = "bad.py:1: SyntaxError: invalid syntax"
KINDS = {"targets": targets, "quantizers": schemes, "datasets": datasets, "models": models}


@pytest.fixture
def broken(monkeypatch, tmp_path):
    """A plugin of each kind that cannot be imported, beside a framework that can."""
    monkeypatch.setenv("JUXTABIT_CACHE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for known in (registry, *KINDS.values()):
        known.names()
        error, origin = "SyntaxError: invalid syntax", Origin("plugins", "1.0")
        found = Unavailable("bad", error, origin, "bad.py:1")
        monkeypatch.setitem(known._unavailable, "bad", found)


@pytest.mark.parametrize("kind", [*KINDS, "frameworks"])
@pytest.mark.parametrize("only", [[], ["--filter", "ba*"]])
def test_a_broken_plugin_is_a_row_of_its_list(broken, capsys, kind, only):
    assert main(["list", kind, *only]) == 0
    rows = capsys.readouterr().out.splitlines()
    (row,) = [row for row in rows if row.startswith("bad ")]
    assert row.split(maxsplit=2)[1:] == ["unavailable", f"{FAULT}  [plugins]"]
    assert rows[-1] == row
    assert main(["list", kind, *only, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    entries = found["unavailable"] if isinstance(found, dict) else found
    facts = next(entry for entry in entries if entry["name"] == "bad")
    assert FAULT in (facts.get("unavailable"), facts.get("fault"))


def test_a_filter_leaves_out_a_broken_plugin_of_another_name(broken, capsys):
    assert main(["list", "targets", "--filter", "bo*"]) == 0
    assert capsys.readouterr().out.split()[0] == "bops"


@pytest.mark.parametrize("override", ["framework", "hardware", "dataset", "model"])
def test_a_broken_plugin_is_not_unknown(broken, capsys, override):
    assert main(["run", f"{override}=bad", "--dry-run"]) == 2
    said = capsys.readouterr().err
    assert f"{override} 'bad' is installed but unavailable: {FAULT}" in said


def test_a_network_of_a_broken_plugin_is_not_unknown(broken):
    with pytest.raises(UnknownName, match="model 'bad' is installed but unavailable"):
        create(ModelConfig(name="bad"), 10, (3, 8, 8))


def test_a_list_as_json_is_json_whatever_a_plugin_prints(monkeypatch, tmp_path, capfd):
    """Frameworks are imported as the list is made."""
    monkeypatch.setenv("JUXTABIT_CACHE", str(tmp_path))
    home = tmp_path / "loudest"
    home.mkdir()
    (home / "loud.py").write_text("print('HELLO AT IMPORT')\n")
    (home / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    fresh = type(registry)("framework", "no.group", ["loudest"])
    monkeypatch.setattr("frameworks.registry", fresh)
    assert listing.read() == {"frameworks": [], "unavailable": []}
    assert main(["frameworks", "--json"]) == 0
    shown = capfd.readouterr()
    assert json.loads(shown.out) == {"frameworks": [], "unavailable": []}
    assert "HELLO AT IMPORT" in shown.err


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("space.restrict=blocks*", "space.restrict: give a list, as in space.restrict=[NAME,NAME]"),
        ("dataset.memory=much", "dataset.memory: Value 'much' of type 'str' could not be conv"),
        ("dataset.memory=-3", "dataset.memory = -3.0: give GiB from 0"),
        ("dataset.memory=nan", "dataset.memory = nan: give GiB from 0"),
        ("dataset.workers=-1", "dataset.workers = -1: give a whole number from 0"),
        ("space.rest=4", "space.rest = 4: it is for the layers that are not searched"),
        ("budget.metrics={sise: {like: 4}}", "budget.metrics.sise: size has no 'sise' (did you"),
    ],
)
def test_a_value_that_does_not_fit_is_said_by_its_key(
    monkeypatch, tmp_path, capsys, override, message
):
    monkeypatch.chdir(tmp_path)
    assert main(["run", override, "budget.like=null"]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"juxtabit: {message}")
    assert said.count("did you mean") == message.count("did you")
