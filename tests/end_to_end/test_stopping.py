"""The command on a pretended terminal and without one: what it shows, and how it stops."""

import json
import os
import re
import signal
import subprocess
import time

import psutil
import pytest

from tests.end_to_end import commands
from tests.end_to_end.commands import COMMAND, FAST, Terminal, below, gone, plain

RUN = ["run", "workers=2", *FAST, "hardware=bops", "budget.like=3"]
AGAIN = "run the same command again to go on"
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
    """With plugins, a cache that knows the float network, and a file that tells of a call of C."""
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

    def make(*arguments, columns=80):
        opened.append(Terminal(arguments, tmp_path, environment, columns))
        return opened[-1]

    yield make
    for one in opened:
        one.close()


def widest(text):
    return max(len(line) for line in re.split(r"[\r\n]+", plain(text)))


def mapped(process):
    """The libraries that a process has loaded."""
    return [found.path for found in psutil.Process(process.pid).memory_maps()]


def test_a_terminal_is_told_at_once_and_ctrl_c_stops_while_starting(terminal, tmp_path):
    shown = terminal(*RUN, columns=60)
    shown.until("starting", 30)
    assert not [path for path in mapped(shown.process) if "torch" in path]
    os.write(shown.main, b"\x03")
    sent = time.monotonic()
    assert shown.ended() == 130
    assert time.monotonic() - sent < 5
    assert AGAIN in plain(shown.text)
    assert "Traceback" not in shown.text
    assert shown.text.rindex("\x1b[?25h") > shown.text.rindex("\x1b[?25l"), "the cursor is back"
    assert not list(tmp_path.iterdir())


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
    os.write(shown.main, b"\x03")
    sent = time.monotonic()
    assert shown.ended() == 130
    assert time.monotonic() - sent < 5
    assert gone(workers) == []
    kept = f"stopped; 0 of 1 cells are done and kept in results/runs/records\r\njuxtabit: {AGAIN}"
    assert kept in plain(shown.text)
    assert "Traceback" not in shown.text
    assert not list(tmp_path.glob("results/runs/records/*"))


def test_what_plugins_print_is_in_the_log_and_not_between_the_progress(terminal, tmp_path):
    shown = terminal(*RUN, suite("noisy", "uniform", fail=True), columns=200)
    assert shown.ended() == 1
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


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_sweep_is_stopped_in_a_call_of_c_and_goes_on_later(tmp_path, environment, number, code):
    stuck = environment["STUCK"]
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
    end = time.monotonic() + 120
    while not os.path.exists(stuck):
        assert time.monotonic() < end
        time.sleep(0.05)
    os.unlink(stuck)
    workers = below(process)
    for _ in range(1 + (number == signal.SIGINT)):  # one who is impatient
        os.killpg(process.pid, number) if number == signal.SIGINT else process.send_signal(number)
    sent = time.monotonic()
    lines += process.stderr.readlines()
    assert process.wait() == code
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
