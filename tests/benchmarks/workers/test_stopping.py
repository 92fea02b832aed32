"""Signals, in small processes of their own: what ends them, how soon, and what they say."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from benchmarks.workers import stopping
from tests.end_to_end.commands import heard

MAIN = """
import os, signal, subprocess, sys, time
from benchmarks.workers import stopping

def main():
    with stopping.Stop() as stop:
        stop.kept = lambda: "stopped; all is kept"
        try:
            act(stop)
        except KeyboardInterrupt:
            return stop.finish()
    return 0

def ready():
    print("ready", flush=True)

if __name__ == "__main__":
    sys.exit(main())
"""
SWALLOWS = "try:\n    print('ready', flush=True)\n    time.sleep(60)\nexcept BaseException: pass\n"
SAID = "juxtabit: stopped; all is kept\n"


@pytest.fixture
def stopped(tmp_path):
    """Run an action, send signals when it is ready; its exit code, what it said, and seconds."""

    def run(action, *numbers, before=heard):
        lines = "\n".join(f"    {line}" for line in action.splitlines())
        script = tmp_path / "script.py"
        script.write_text(MAIN.replace("def ready()", f"def act(stop):\n{lines}\n\ndef ready()"))
        process = subprocess.Popen(
            [sys.executable, str(script)], preexec_fn=before, cwd=tmp_path,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([os.getcwd(), *sys.path])},
        )  # fmt: skip
        assert process.stdout.readline() == "ready\n"
        children = psutil.Process(process.pid).children(recursive=True)
        sent = time.monotonic()
        for number in numbers:
            process.send_signal(number)
            time.sleep(0.1)
        err = process.communicate(timeout=60)[1]
        took = time.monotonic() - sent
        assert psutil.wait_procs(children, timeout=5)[1] == []
        return process.returncode, err, took

    return run


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_what_is_under_way_and_all_that_it_started(stopped, number, code):
    code_got, said, _ = stopped(
        "subprocess.Popen(['sleep', '60']); ready(); time.sleep(60)", number
    )
    assert (code_got, said) == (code, SAID)


def test_files_are_put_away_on_the_way_out(stopped, tmp_path):
    action = "try:\n    ready(); time.sleep(60)\nfinally:\n    open('put_away', 'w').close()"
    assert stopped(action, signal.SIGINT)[:2] == (130, SAID)
    assert (tmp_path / "put_away").exists()


@pytest.mark.parametrize(
    "action",
    [
        "try:\n    ready(); time.sleep(60)\nfinally:\n    time.sleep(60)",
        "while True:\n    try:\n        ready(); time.sleep(60)\n    except BaseException: pass",
    ],
    ids=["on the way out", "where it is ignored"],
)
def test_what_goes_on_nevertheless_is_ended(stopped, action):
    code, said, took = stopped(action, signal.SIGINT)
    assert (code, said) == (130, SAID)
    assert took > stopping.GRACE, "it was given the time to end by itself"
    assert stopped(action, signal.SIGINT, signal.SIGTERM)[0] == 130, "the first one counts"


def test_a_second_signal_ends_it_at_once(stopped):
    action = "try:\n    ready(); time.sleep(60)\nfinally:\n    time.sleep(60)"
    code, said, took = stopped(action, signal.SIGINT, signal.SIGINT)
    assert (code, said) == (130, SAID)
    assert took < stopping.GRACE


def test_a_module_that_is_imported_does_not_swallow_it(stopped, tmp_path):
    (tmp_path / "swallows.py").write_text(f"import time\n{SWALLOWS}")
    code, said, took = stopped("import swallows", signal.SIGINT)
    assert (code, said) == (130, SAID)
    assert took < stopping.GRACE


def test_where_processes_are_started_it_waits_for_the_end(stopped, tmp_path):
    action = (
        "with stopping.starting():\n    ready(); time.sleep(0.5); open('whole', 'w').close()\n"
        "open('after', 'w').close()"
    )
    assert stopped(action, signal.SIGINT)[:2] == (130, SAID)
    assert (tmp_path / "whole").exists()
    assert not (tmp_path / "after").exists()


def test_a_signal_that_is_ignored_stays_so(stopped):
    def ignored():
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    assert stopped("ready(); time.sleep(0.5)", signal.SIGINT, before=ignored)[:2] == (0, "")


def test_handlers_are_put_back():
    before = [signal.getsignal(number) for number in stopping.SIGNALS]
    with stopping.Stop() as stop:
        assert stopping.current() is stop
        assert [signal.getsignal(number) for number in stopping.SIGNALS] != before
    assert [signal.getsignal(number) for number in stopping.SIGNALS] == before
    assert stopping.current() is not stop
