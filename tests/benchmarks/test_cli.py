import json
import sys
from types import SimpleNamespace

import pytest

import benchmarks
from benchmarks import cli
from benchmarks.cli import main
from benchmarks.record import Record
from benchmarks.store import Store
from frameworks import registry


@pytest.fixture(autouse=True)
def _place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["juxtabit"])


def test_frameworks_are_listed_by_category_and_year(capsys):
    assert main(["frameworks"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines].count("haq") == 1
    assert {line.split()[0] for line in lines} == set(registry.names())
    order = [(line.split()[1], int(line.split()[2])) for line in lines]
    assert order == sorted(order)


def test_frameworks_as_json_carry_their_cards(capsys):
    assert main(["frameworks", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["unavailable"] == []
    entries = {entry["name"]: entry for entry in data["frameworks"]}
    assert set(entries) == set(registry.names())
    for name, entry in entries.items():
        cls = registry.get(name)
        assert entry["card"] == cls.card.to_json()
        assert entry["distribution"] == "juxtabit"
        assert entry["steered_by"] == cls.strength
    assert entries["random"]["hyperparameters"] == {"evaluations": 100}


def test_the_version(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.strip() == benchmarks.__version__


@pytest.mark.parametrize(
    "arguments",
    [[], ["nonesuch"], ["table", "--format", "pdf"], ["table", "a", "b"], ["frameworks", "haq"]],
)
def test_usage_errors_exit_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "usage: juxtabit" in capsys.readouterr().err


def raising(error):
    def action(*_):
        raise error

    return action


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (ValueError("budget: too small"), 2, "juxtabit: budget: too small\n"),
        (FileNotFoundError("no records in x"), 2, "juxtabit: no records in x\n"),
        (KeyboardInterrupt(), 130, "juxtabit: stopped; run the same command again to go on\n"),
        (RuntimeError(), 2, "juxtabit: RuntimeError without a message\n"),
        (KeyError("x"), 2, "juxtabit: KeyError: 'x' (JUXTABIT_DEBUG=1 shows where)\n"),
    ],
)
def test_errors_become_an_exit_code_and_one_line(monkeypatch, capsys, error, code, message):
    monkeypatch.setattr(cli, "_frameworks", raising(error))
    assert main(["frameworks"]) == code
    assert capsys.readouterr().err == message


def test_debugging_shows_the_traceback(monkeypatch):
    monkeypatch.setenv("JUXTABIT_DEBUG", "1")
    monkeypatch.setattr(cli, "_frameworks", raising(KeyError("x")))
    with pytest.raises(KeyError):
        main(["frameworks"])


def cell(name="haq"):
    return {
        "framework": {"name": name}, "model": {"name": "m"}, "dataset": {"name": "d"},
        "hardware": {"name": "size"}, "budget": {"like": 4}, "protocol": {"name": "ptq"}, "seed": 0,
    }  # fmt: skip


def test_warnings_are_one_line_each_and_a_corrupt_record_is_exit_code_1(tmp_path, capsys):
    folder = tmp_path / "results/x/records"
    Store(folder).put(Record(key="good", cell=cell(), status="skipped", reason="too small"))
    (folder / "bad.json").write_text("{")
    assert main(["table"]) == 1
    shown = capsys.readouterr()
    (line,) = shown.err.splitlines()
    assert line.startswith("juxtabit: warning: left out a corrupt record: results/x/records/bad.js")
    assert "haq" in shown.out
    (folder / "bad.json").unlink()
    assert main(["table"]) == 0
    assert capsys.readouterr().err == ""


def test_failed_cells_are_exit_code_1_and_shown_with_their_error(monkeypatch, capsys, tmp_path):
    failed = Record(key="k", cell=cell(), status="failed", error="Traceback ...\nValueError: bad")
    good = Record(key="g", cell=cell("uniform"), status="skipped", reason="too small")
    outcome = SimpleNamespace(records=[failed, good], computed=1, failed=[failed])
    monkeypatch.setattr(cli, "execute", lambda config: (outcome, tmp_path))
    assert main(["run"]) == 1
    shown = capsys.readouterr()
    assert "FAILED haq m d size like=4 ptq seed=0" in shown.err
    assert "ValueError: bad" in shown.err
    assert "1 of 2 cells had to be computed." in shown.out
    assert "uniform" in shown.out


def test_a_run_with_baselines_has_each_once():
    from benchmarks.config import cell_of, composed

    for name, count in (("haq", 4), ("random", 3)):
        cells = cli._single(cell_of(composed([f"framework={name}"])), True)
        names = [c["framework"]["name"] for c in cells]
        assert len(names) == len(set(names)) == count
        assert names[0] == name
        assert {"uniform", "random", "greedy"} <= set(names)
    assert len(cli._single(cells[0], False)) == 1
