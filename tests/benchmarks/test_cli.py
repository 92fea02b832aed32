import argparse
import contextlib
import errno
import io
import json
import sys
from collections import defaultdict

import pytest

import benchmarks
from benchmarks import cli
from benchmarks.arguments.parser import make_parser
from benchmarks.arguments.values import bits
from benchmarks.cli import main
from benchmarks.commands import executing, runs
from benchmarks.records.record import Record
from benchmarks.records.store import Store
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
    assert entries["exhaustive"]["hyperparameters"] == {"limit": 4096}


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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "--dryrun"], "there is no option --dryrun (did you mean --dry-run?); there are "),
        (["run", "seed=1", "--framework=haq"], "no option --framework (keys of the configuration "
         "have no dashes: framework=haq); there are --cfg, --dry-run, --help, --keys, "),
        (["leaderboard", "results", "--titel", "x"], "no option --titel (did you mean --title?)"),
        (["lut", "--force"], "there is no option --force; there are --cfg, --help\n"),
        (["table", "a", "b"], "juxtabit table: error: one argument too many: b\n"),
        (["runn"], "(did you mean run?)"),
        (["list", "frameworsk"], "(did you mean frameworks?)"),
        (["table", "--format", "htm"], "(did you mean html?)"),
        (["export", "r.json", "--out=x", "--to=oonx"], "(did you mean onnx?)"),
    ],
)  # fmt: skip
def test_what_a_command_does_not_know_is_refused_with_what_was_meant(arguments, message, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    said = capsys.readouterr().err.replace("[-h]", "")
    assert "usage: juxtabit" in said
    assert message in said


def every_option():
    """The options of all commands that read a value of their own kind."""
    parser = make_parser(defaultdict(lambda: lambda *_: 0))
    (commands,) = (a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    for name, command in commands.choices.items():
        for action in command._actions:
            if action.type not in (None, int, float):
                yield pytest.param(action.type, id=f"{name} {action.dest}")


@pytest.mark.parametrize("read", every_option())
def test_a_value_that_is_none_is_refused_in_words(read):
    """And not with the name of a function, as argparse does with any other error."""
    for text in ("2,x", "-7", ""):
        with contextlib.suppress(argparse.ArgumentTypeError):
            read(text)


def test_bits_are_read_and_refused(capsys):
    assert bits("2, 4,8") == [2, 4, 8]
    with pytest.raises(SystemExit):
        main(["quantize", "--model=m", "--images=i", "--out=o", "--bits=2,x"])
    assert "--bits: '2,x': give bits within 1 to 8, such as 2,3,4,8\n" in capsys.readouterr().err


def raising(error):
    def action(*_):
        raise error

    return action


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (ValueError("budget: too small"), 2, "juxtabit: budget: too small\n"),
        (FileNotFoundError("no records in x"), 2, "juxtabit: no records in x\n"),
        (KeyboardInterrupt(), 130, "juxtabit: stopped; nothing is kept\n"),
        (RuntimeError(), 2, "juxtabit: RuntimeError without a message\n"),
        (KeyError("x"), 2, "juxtabit: KeyError: 'x' (JUXTABIT_DEBUG=1 shows where)\n"),
    ],
)
def test_errors_become_an_exit_code_and_one_line(monkeypatch, capsys, error, code, message):
    monkeypatch.setattr(cli, "frameworks_command", raising(error))
    assert main(["frameworks"]) == code
    assert capsys.readouterr().err == message


def test_debugging_shows_the_traceback(monkeypatch):
    monkeypatch.setenv("JUXTABIT_DEBUG", "1")
    monkeypatch.setattr(cli, "frameworks_command", raising(KeyError("x")))
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
    from benchmarks.suite.run import Outcome

    outcome = Outcome([failed, good], 1, tmp_path / "logs/x.log")
    monkeypatch.setattr(runs, "execute", lambda configs: (outcome, tmp_path))
    assert main(["run"]) == 1
    shown = capsys.readouterr()
    assert "FAILED haq m d size like=4 ptq seed=0" in shown.err
    assert "ValueError: bad" in shown.err
    assert "1 of 2 cells had to be computed." in shown.out
    assert "uniform" in shown.out
    assert f"Log:     {tmp_path}/logs/x.log" in shown.out


@pytest.mark.parametrize("reason", [errno.EPIPE, errno.EIO], ids=["a pipe", "a terminal"])
def test_the_exit_code_stays_where_nobody_reads_the_table(reason, monkeypatch, tmp_path):
    """As of a pipe that was closed, and of a terminal that is gone."""
    from benchmarks.suite.run import Outcome

    class Gone(io.TextIOWrapper):
        def write(self, _):
            raise OSError(reason, "gone")

    with (tmp_path / "out").open("wb") as out, (tmp_path / "err").open("wb") as err:
        monkeypatch.setattr("sys.stdout", Gone(out))
        monkeypatch.setattr("sys.stderr", Gone(err))
        failed = Record(key="k", cell=cell(), status="failed", error="ValueError: bad")
        assert runs.report(Outcome([failed], 1), tmp_path) == 1
        assert runs.report(Outcome([], 0, faults=["a job is gone"]), tmp_path) == 1
        monkeypatch.undo()


def single(*overrides, baselines=True):
    """The cells that a run computes, by round and framework, and its outcome.

    Records are as if every search had run 30,000 images forward and 12,000 backward.
    """
    from benchmarks.suite.config import cell_of, composed
    from benchmarks.suite.run import Outcome

    rounds = []

    def compute(cells):
        rounds.append({c["framework"]["name"]: c["framework"] for c in cells})
        assert len(rounds[-1]) == len(cells), "each baseline once"
        search = {"images_forward": 30000, "images_backward": 12000}
        records = [
            Record(key=c["framework"]["name"], cell=c, status="done", search=search) for c in cells
        ]
        return Outcome(records, len(cells))

    cell = cell_of(composed(list(overrides)))
    outcome = executing.beside_baselines([cell], [cell] if baselines else [], compute)
    assert [r.cell["framework"]["name"] for r in outcome.records] == [n for r in rounds for n in r]
    assert outcome.computed == len(outcome.records)
    return rounds


def test_baselines_evaluate_as_many_policies_as_the_framework():
    for overrides, count in (
        (["framework=haq"], 600),
        (["framework=haq", "framework.episodes=33"], 33),
        (["framework=autoq", "framework.explore=4", "framework.exploit=7"], 11),
        (["framework=mohaq", "framework.evaluations=50"], 50),
        (["framework=random", "framework.evaluations=9"], 9),
    ):
        (cells,) = single(*overrides)
        assert next(iter(cells)) == overrides[0].partition("=")[2]
        assert {"uniform", "random", "greedy"} <= cells.keys()
        rivals = [cells[name] for name in cells if name in ("random", "greedy", "random_kernel")]
        assert {entry["evaluations"] for entry in rivals} == {count}
        assert ("random_kernel" in cells) == (overrides[0] == "framework=autoq")
        assert "random_retrained" not in cells


def test_baselines_of_a_search_that_does_not_say_how_many_get_its_images():
    for name in ("dnas", "mohaq"):  # MOHAQ's generations say little of how many are evaluated
        first, second = single(f"framework={name}")
        assert list(first) == [name]
        assert set(second) == {"uniform", "random", "greedy"}
        assert second["random"]["images"] == second["greedy"]["images"] == 42000


def test_baselines_of_a_method_that_scores_once_for_all_budgets_are_the_default_ones():
    (cells,) = single("framework=hawq_v3")
    assert (cells["random"]["evaluations"], cells["random"]["images"]) == (100, 0)


def test_candidates_that_are_trained_meet_random_ones_that_are_trained_alike():
    changes = ["protocol=controlled", "framework.retrain_images=77", "framework.retrain_lr=0.5"]
    for name, rival in (("haq", "random_retrained"), ("autoq", "random_kernel")):
        (cells,) = single(f"framework={name}", *changes)
        assert list(cells) == [name, "uniform", "random", "greedy", rival]
        shared = ("retrain_epochs", "retrain_images", "retrain_lr")
        assert [cells[rival][key] for key in shared] == [1, 77, 0.5]
    assert cells["random_kernel"]["prune"] is cells["autoq"]["prune"] is True
    (cells,) = single("framework=haq", *changes, "framework.retrain_epochs=0")
    assert "random_retrained" not in cells


def test_a_run_without_baselines_or_of_a_baseline():
    assert [list(r) for r in single("framework=haq", baselines=False)] == [["haq"]]
    (cells,) = single("framework=uniform")
    assert list(cells) == ["uniform", "random", "greedy"]


def test_a_framework_that_cannot_be_made_is_refused_by_the_run_and_not_by_its_baselines():
    (cells,) = single("framework=random", "framework.evaluations=-2")
    assert cells["random"]["evaluations"] == -2
