"""The command on a pretended terminal and without one: what it shows, and how it stops."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from tests.end_to_end import commands
from tests.end_to_end.commands import COMMAND, FAST, ROOT, Terminal, below, gone, plain

RUN = ["run", "workers=1", *FAST, "hardware=bops", "budget.like=3"]
AGAIN = "run the same command again to go on"
SLOW = """
import os, sys, time
from benchmarks.commands import executing
from benchmarks.cli import main

def guarded(*_):
    open(os.environ["STUCK"], "w").close()
    time.sleep(1000)

executing.guarded = guarded
sys.exit(main())
"""
PLUGIN = '''
"""Methods that are bad neighbours."""
import ctypes, os, sys, warnings
from dataclasses import dataclass
from typing import ClassVar
from frameworks import Card, Framework, Problem, Solution, register

print("printed while imported")

def card():
    return Card(
        title="Bad", year=2026, category="heuristic", quantizer="mse", granularity="layer",
        searches=("weight",), needs=frozenset({"calibration"}),
    )

@register
@dataclass
class Noisy(Framework):
    """Prints in every way there is."""
    name: ClassVar[str] = "noisy"
    card: ClassVar[Card] = card()
    fail: bool = False
    def search(self, problem: Problem) -> Solution:
        print("printed by Python\\x1b[2J")
        sys.stderr.write("printed as an error\\n")
        ctypes.CDLL(None).puts(b"printed by C")
        os.system("echo printed by a program")
        for _ in range(3):
            warnings.warn("odd numbers")
        if self.fail:
            raise RuntimeError("this plugin gives up")
        return Solution(problem.space.lowest())

@register
@dataclass
class Stuck(Framework):
    """Stays in a call of C that no signal and no other thread gets through to."""
    name: ClassVar[str] = "stuck"
    card: ClassVar[Card] = card()
    def search(self, problem: Problem) -> Solution:
        problem.progress(1, 7, "endless rounds")
        os.environ["STUCK"] and open(os.environ["STUCK"], "w").close()
        ctypes.PyDLL(None).sleep(1000)
        return Solution(problem.space.lowest())
'''


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """With plugins, a cache of its own, and a file that tells of a call of C."""
    site = commands.installed(tmp_path_factory.mktemp("site"), PLUGIN)
    cache = tmp_path_factory.mktemp("cache")
    return commands.environment(site, cache, STUCK=str(site / "stuck"), TERM="xterm")


def suite(*frameworks, **overrides):
    names = f"+suite={{name: runs, cells: [{{framework: [{', '.join(frameworks)}]}}]"
    return (
        f"{names}, overrides: {{framework: {{noisy: {{fail: true}}}}}}}}"
        if overrides
        else (f"{names}}}")
    )


@pytest.fixture
def terminal(tmp_path, environment):
    """Factory of the command on a terminal; nothing of it is left afterwards."""
    opened = []

    def make(*arguments, columns=80, command=COMMAND):
        opened.append(Terminal(arguments, tmp_path, environment, columns, command))
        return opened[-1]

    yield make
    for one in opened:
        one.close()


def widest(text):
    return max(len(line) for line in re.split(r"[\r\n]+", plain(text)))


def told(shown, number):
    """Tell the command to stop, as a terminal's key or as `kill` does; it does so at once."""
    if number == signal.SIGINT:
        os.write(shown.main, b"\x03")
    else:
        shown.process.send_signal(number)
    sent = time.monotonic()
    assert shown.ended() == 128 + number
    assert time.monotonic() - sent < 5
    assert "Traceback" not in shown.text


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_terminal_is_told_and_the_command_stops_while_starting(number, terminal, tmp_path):
    shown = terminal(*RUN, columns=60)
    shown.until("starting")
    told(shown, number)
    assert AGAIN in plain(shown.text)
    assert shown.text.rindex("\x1b[?25h") > shown.text.rindex("\x1b[?25l"), "the cursor is back"
    assert not list(tmp_path.iterdir())


# Each command until torch, which takes seconds, is about to be imported: what it has said by then.
STARTS = """
import contextlib, io, json, sys
from benchmarks.cli import main

class Torch(BaseException):
    pass

class Found:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            raise Torch

sys.meta_path.insert(0, Found())
said = []
for arguments in json.loads(sys.argv[1]):
    err = io.StringIO()
    with contextlib.redirect_stderr(err), contextlib.suppress(Torch):
        main(arguments)
        err.write("no torch")
    said.append(err.getvalue())
json.dump(said, sys.stdout)
"""


def test_commands_that_take_long_say_so_before_they_import_torch():
    made = ["--model=m", "--images=i", "--out=o"]
    commands = [
        ["lut"], ["diagnose"], ["export", "r", "--to=onnx", "--out=o"], ["verify", "r"],
        ["oracle", "--out=o"], ["quantize", *made],
    ]  # fmt: skip
    ended = subprocess.run(
        [sys.executable, "-c", STARTS, json.dumps(commands)], capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout) == ["... starting\n"] * len(commands)


def test_a_pretraining_is_named_fits_the_terminal_and_is_stopped(terminal, tmp_path):
    shown = terminal(
        *RUN, "framework=uniform", "baselines=false", "retrain=true", "dataset.pretrain.epochs=500",
        columns=60,
    )  # fmt: skip
    seen = shown.until(r"cell 1 of 1: pretraining, loss [\d.]+ \d+/500")
    assert widest(shown.text) <= 60
    shown.resize(40)
    seen = shown.until(r"pretraining", after=shown.until("pretraining", after=seen))
    narrow = len(shown.text)
    shown.until(r"0 of 1 cells", after=shown.until(r"0 of 1 cells", after=narrow))
    assert 30 < widest(shown.text[narrow:]) <= 40
    workers = below(shown.process)
    assert len(workers) >= 2
    told(shown, signal.SIGTERM)
    assert gone(workers) == []
    kept = f"stopped; 0 of 1 cells are done and kept in results/runs/records\r\njuxtabit: {AGAIN}"
    assert kept in plain(shown.text)
    assert not list(tmp_path.glob("results/runs/records/*"))


@pytest.mark.parametrize(
    "columns", [pytest.param(wide, marks=pytest.mark.slow) for wide in (40, 80, 200)]
)
def test_progress_and_lines_of_cells_keep_to_the_terminals_width(columns, terminal):
    shown = terminal(*RUN, suite("uniform", "noisy"), columns=columns)
    ended = shown.until(r"\[2/2\]")
    assert shown.ended() == 0
    text = shown.text[:ended]
    assert re.search(r"\d of 2 cells", plain(text))
    assert 30 < widest(text) <= columns


def test_what_plugins_print_is_in_the_log_and_not_between_the_progress(terminal, tmp_path):
    shown = terminal(*RUN, suite("noisy", "uniform", fail=True), columns=120)
    ended = shown.until(r"\[2/2\]")
    assert shown.ended() == 1
    assert 30 < widest(shown.text[:ended]) <= 120
    assert "printed" not in plain(shown.text)
    assert "odd numbers" not in plain(shown.text)
    assert re.search(r"\[2/2\] .*, all in \d+", plain(shown.text))
    (log,) = tmp_path.glob("results/runs/logs/*")
    assert f"Log:     {log.relative_to(tmp_path)}" in plain(shown.text)
    text = log.read_text()
    ways = ["while imported", r"by Python\x1b[2J", "as an error", "by C", "by a program"]
    assert [way for way in ways if f"printed {way}\n" not in text] == []
    assert text.count("odd numbers") == 1
    assert "RuntimeError: this plugin gives up" in text
    records = [json.loads(p.read_text()) for p in tmp_path.glob("results/runs/records/*.json")]
    (failed,) = (r for r in records if r["status"] == "failed")
    assert failed["notes"]["log"] == f"logs/{log.name}"


def stuck(environment, shown=None):
    """Wait until a method is in its call of C, or a report at its table; a terminal is read."""

    def there():
        if shown is not None:
            shown.read(0)
        return os.path.exists(environment["STUCK"])

    commands.waited(there)
    os.unlink(environment["STUCK"])


def test_a_terminals_ctrl_c_stops_a_cell_in_a_call_of_c_and_the_table(
    terminal, tmp_path, environment
):
    shown = terminal(*RUN, suite("uniform", "stuck"))
    shown.until(r"\[1/2\]")
    stuck(environment, shown)
    workers = below(shown.process)
    told(shown, signal.SIGINT)
    assert gone(workers) == []
    text = plain(shown.text).replace("\r\n", "\n")
    assert "stopped; 1 of 2 cells are done and kept in results/runs/records\n" in text
    # What was computed is there, and only the table is left to be made.
    slow = terminal(*RUN, suite("uniform"), command=[sys.executable, "-c", SLOW])
    slow.until("starting")
    stuck(environment, slow)
    told(slow, signal.SIGTERM)
    text = plain(slow.text).replace("\r\n", "\n")
    kept = "stopped; all that was computed is kept in results/runs/records\n"
    assert f"{kept}juxtabit: {AGAIN.replace('to go on', 'for the table')}" in text
    assert not list(tmp_path.glob("results/runs/juxtaposition*"))


@pytest.mark.slow
def test_a_sweep_without_a_terminal_is_stopped_in_a_call_of_c(tmp_path, environment):
    process = subprocess.Popen(
        [*COMMAND, *RUN, suite("uniform", "stuck")], cwd=tmp_path, env=environment,
        stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, start_new_session=True,
        preexec_fn=commands.heard,
    )  # fmt: skip
    lines = []
    for line in process.stderr:
        lines.append(line)
        if "[1/2]" in line:
            break
    stuck(environment)
    workers = below(process)
    for _ in "ab":  # one who is impatient
        os.killpg(process.pid, signal.SIGINT)
    sent = time.monotonic()
    lines += process.stderr.readlines()
    assert process.wait() == 130
    assert time.monotonic() - sent < 5
    process.stderr.close()
    assert gone(workers) == []
    text = "".join(lines)
    assert "stopped; 1 of 2 cells are done and kept in results/runs/records\n" in text
    assert "Traceback" not in text
    assert not re.search(r"[^\x20-\x7e\n·]", text), "no control characters where it is no terminal"
    # Who is impatient leaves the claims behind, which free themselves: the process is gone.
    (record,) = tmp_path.glob("results/runs/records/*.json")
    assert json.loads(record.read_text())["status"] == "done"
