"""A run of the command in which a plugin does its worst: the other cells go on."""

import json
import re
import subprocess

import pytest

from benchmarks.records.store import Store
from tests.end_to_end import commands

PLUGIN = '''
"""A method that does what its field says."""
import os, sys, threading, time
from dataclasses import dataclass
from typing import ClassVar
from frameworks import Card, Framework, Solution, register

@register
@dataclass
class Bad(Framework):
    name: ClassVar[str] = "bad"
    card: ClassVar[Card] = Card(
        title="Bad", year=2026, category="heuristic", quantizer="mse", granularity="layer",
        searches=("weight",), needs=frozenset({"calibration"}),
    )
    how: str = "fine"
    def validate(self):
        if self.how == "check":
            sys.exit(0)
    def search(self, problem):
        if self.how == "exit":
            sys.exit(0)
        if self.how == "die":
            os._exit(0)
        if self.how == "fork" and os.fork():
            time.sleep(2)
        if self.how == "flood":
            print("flood " * 300_000)
            os.write(1, b"flood " * 1000)
        if self.how == "thread":
            threading.Thread(target=time.sleep, args=(3600,)).start()
        return Solution(problem.space.lowest())
'''
HOW = ("exit", "die", "fork", "flood", "thread", "check")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder with the plugin as an installed distribution."""
    return commands.installed(tmp_path_factory.mktemp("site"), PLUGIN, plugin="bad")


@pytest.fixture(scope="module")
def ended(site, tmp_path_factory):
    """One run of the command, and the folder of its results."""
    cells = ",".join(
        f"{{framework: [bad], overrides: {{framework: {{bad: {{how: {how}}}}}}}}}" for how in HOW
    )
    suite = f"+suite={{name: s, cells: [{{framework: [uniform]}},{cells}]}}"
    folder = tmp_path_factory.mktemp("run")
    fast = ["protocol.valid_images=60", "hardware=bops", "workers=1"]
    command = [*commands.COMMAND, "run", *fast, suite]
    environment = commands.environment(site, folder / "cache")
    return folder, subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=400
    )


def by_how(folder):
    found = {}
    for record in Store(folder / "results/s/records").records():
        found[record.cell["framework"].get("how", "uniform")] = record
    return found


def test_each_is_one_failed_record_and_the_others_are_done(ended):
    folder, command = ended
    records = by_how(folder)
    done = {how for how, record in records.items() if record.status == "done"}
    assert done == {"uniform", "fork", "flood", "thread"}, command.stderr
    errors = {how: record.error for how, record in records.items() if record.error}
    assert "called sys.exit(0)" in errors["exit"]
    assert "called sys.exit(0)" in errors["check"]
    assert re.search(r'badbits.py", line \d+, in search', errors["exit"])
    assert "worker process died" in errors["die"]
    assert "framework bad (module badbits)" in errors["die"]
    assert "left_behind" in records["thread"].notes
    for path in (folder / "results/s/records").iterdir():
        json.loads(path.read_text(), parse_constant=pytest.fail)


def test_the_exit_code_and_the_messages_say_so(ended):
    _, command = ended
    assert command.returncode == 1
    assert command.stderr.count("\nFAILED bad") == 3
    assert "flood flood" not in command.stdout
    assert "7 of 7 cells had to be computed." in command.stdout
