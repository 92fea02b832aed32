"""A long run of the command: cells that hang, workers that die, terminals that go, two at once."""

import json
import re
import signal
import subprocess

import pytest

from tests.end_to_end import commands
from tests.end_to_end.commands import COMMAND, FAST, Terminal, below, gone, waited

PLUGIN = '''
"""A method that does what its field says."""
import ctypes, os, signal, subprocess, time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar
from frameworks import Card, Framework, Solution, register

def once(name):
    """Whether this is the first time."""
    try:
        open(Path(os.environ["MARKS"]) / name, "x").close()
    except FileExistsError:
        return False
    return True

@register
@dataclass
class Bad(Framework):
    name: ClassVar[str] = "bad"
    card: ClassVar[Card] = Card(
        title="Bad", year=2026, category="heuristic", quantizer="mse", granularity="layer",
        searches=("weight",), needs=frozenset({"calibration"}),
    )
    how: str = "fine"
    def search(self, problem):
        marks = Path(os.environ["MARKS"])
        with open(marks / "searches", "a") as file:
            file.write(f"{self.how} {problem.seed}\\n")
        getattr(self, f"be_{self.how}")(problem, marks)
        return Solution(problem.space.lowest())
    def be_fine(self, problem, marks):
        pass
    def be_asleep(self, problem, marks):
        problem.progress(1, 7, "endless rounds")
        time.sleep(3600)
    def be_in_c(self, problem, marks):
        ctypes.PyDLL(None).sleep(3600)
    def be_deaf(self, problem, marks):
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        child = subprocess.Popen(["sleep", "3600"])
        (marks / "child").write_text(str(child.pid))
        time.sleep(3600)
    def be_killed_once(self, problem, marks):
        if once("killed"):
            os.kill(os.getpid(), signal.SIGKILL)
    def be_crashing(self, problem, marks):
        os.kill(os.getpid(), signal.SIGSEGV)
    def be_gated(self, problem, marks):
        (marks / "at the gate").touch()
        while not (marks / "open").exists():
            time.sleep(0.05)
'''
RUN = ["run", *FAST, "hardware=bops", "budget.like=3"]


def suite(*how, seeds="[0]"):
    cells = ",".join(
        f"{{framework: [bad], seed: {seeds}, overrides: {{framework: {{bad: {{how: {one}}}}}}}}}"
        for one in how
    )
    return f"+suite={{name: s, cells: [{cells}]}}"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    return commands.installed(tmp_path_factory.mktemp("site"), PLUGIN, plugin="bad")


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def start(site, cache, tmp_path):
    """Start the command; what it does to files is in ``tmp_path``."""
    begun = []

    def run(*arguments):
        environment = commands.environment(site, cache, MARKS=str(tmp_path))
        process = subprocess.Popen(
            [*COMMAND, *RUN, *arguments], cwd=tmp_path, env=environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        begun.append(process)
        return process

    yield run
    for process in begun:
        process.kill()
        process.communicate()


def ended(process):
    """The exit code and what was printed."""
    out, err = process.communicate(timeout=400)
    return process.returncode, out, err


def by_how(folder):
    records = [json.loads(path.read_text()) for path in folder.glob("results/s/records/*.json")]
    return {record["cell"]["framework"]["how"]: record for record in records}


def searches(folder):
    return sorted((folder / "searches").read_text().splitlines())


def hung(start, tmp_path):
    """The record of a cell that was ended by its limit."""
    code, _, _ = ended(start(suite("asleep"), "workers=1", "timeout=2"))
    assert code == 1
    (record,) = by_how(tmp_path).values()
    assert record["status"] == "failed"
    assert "not done after 2 s, and ended by timeout=2 (framework bad" in record["error"]
    return record


def test_what_hangs_is_ended(start, tmp_path):
    hung(start, tmp_path)


@pytest.mark.slow
def test_all_that_hangs_is_ended_and_tried_again_the_next_time(start, tmp_path):
    hangs, record = ("asleep", "in_c", "deaf"), hung(start, tmp_path)
    # The limit is no part of a cell: with a longer one it is the same that is tried again.
    code, out, err = ended(start(suite("fine", *hangs), "workers=4", "timeout=0.5m"))
    assert code == 1
    assert "4 of 4 cells had to be computed." in out
    records = by_how(tmp_path)
    assert records["fine"]["status"] == "done", err
    assert records["asleep"]["key"] == record["key"]
    for how in hangs:
        assert records[how]["status"] == "failed"
        assert "not done after 30 s, and ended by timeout=30 " in records[how]["error"]
        assert "timeout=60" in records[how]["error"]
        assert records[how]["timings"]["total"] == 30
    assert "stage: search: endless rounds" in records["asleep"]["error"]
    assert err.count("\nFAILED bad") == 3
    assert gone([commands.process(int((tmp_path / "child").read_text()))]) == []


def test_a_dead_worker_is_replaced_and_its_cell_tried_once_more(start, tmp_path):
    code, _, err = ended(start(suite("killed_once", "crashing", "fine"), "workers=1"))
    records = by_how(tmp_path)
    assert {how: r["status"] for how, r in records.items()} == {
        "killed_once": "done", "crashing": "failed", "fine": "done",
    }, err  # fmt: skip
    assert searches(tmp_path) == [
        "crashing 0", "crashing 0", "fine 0", "killed_once 0", "killed_once 0",
    ]  # fmt: skip
    assert records["crashing"]["error"].endswith("SIGSEGV(-11)")
    assert "worker process died" in records["crashing"]["error"]
    assert code == 1
    assert re.findall(r"\[(\d)/3\]", err) == ["1", "2", "3"]


@pytest.mark.slow
def test_two_commands_at_once_share_the_cells(start, tmp_path):
    command = [suite("fine", "gated", seeds="[0, 1, 2]"), "workers=1"]
    one, other = start(*command), start(*command)
    waited(lambda: (tmp_path / "searches").exists() and len(searches(tmp_path)) >= 4)
    (tmp_path / "open").touch()
    results = [ended(one), ended(other)]
    assert [code for code, _, _ in results] == [0, 0], results
    assert searches(tmp_path) == [f"{how} {i}" for how in ("fine", "gated") for i in range(3)]
    tables = [
        out.partition("cells had to be computed")[0].rpartition("\n")[0] for _, out, _ in results
    ]
    assert tables[0] == tables[1]
    assert "6 cells: 6 done" in tables[0]
    counts = [
        int(re.search(r"(\d) of 6 cells had to be computed", out)[1]) for _, out, _ in results
    ]
    shared = [int(re.search(r"(\d) were computed by another", out)[1]) for _, out, _ in results]
    assert sum(counts) == 6
    assert [6 - count for count in counts] == shared
    assert min(counts) >= 1
    assert not (tmp_path / "results/s/records/.claims").exists()


def test_what_a_killed_command_left_is_taken_up_at_once(start, tmp_path):
    command = [suite("gated"), "workers=1"]
    one = start(*command)
    waited(lambda: (tmp_path / "at the gate").exists())
    workers = below(one)
    one.kill()
    assert gone(workers) == []
    (tmp_path / "open").touch()
    code, out, _ = ended(start(*command))
    assert code == 0
    assert "1 of 1 cells had to be computed." in out
    assert not (tmp_path / "results/s/records/.claims").exists()


@pytest.mark.slow
def test_the_run_goes_on_without_its_terminal_and_without_any_process_but_workers(
    site, cache, tmp_path
):
    environment = commands.environment(site, cache, MARKS=str(tmp_path), TERM="xterm")
    shown = Terminal([*RUN, suite("gated", "fine"), "workers=1"], tmp_path, environment, 80)
    try:
        shown.until("cell 1 of 2: search")
        waited(lambda: (tmp_path / "at the gate").exists())
        # What is not a worker is not needed: there is no manager whose end would end all.
        for process in below(shown.process):
            if "resource_tracker" in " ".join(process.cmdline()):
                process.send_signal(signal.SIGKILL)
        shown.gone()
        (tmp_path / "open").touch()
        assert shown.process.wait(120) == 0
    finally:
        shown.close()
    assert {how: r["status"] for how, r in by_how(tmp_path).items()} == {
        "gated": "done", "fine": "done",
    }  # fmt: skip
    assert (tmp_path / "results/s/juxtaposition.html").exists()
