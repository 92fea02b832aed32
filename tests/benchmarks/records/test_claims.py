"""Claims of cells: one holder at a time, whoever dies, and whatever clocks say."""

import itertools
import json
import multiprocessing
import os
import subprocess
import sys

import pytest

from benchmarks.records import claims as module
from benchmarks.records.claims import FOLDER, LEASE, Claims

KEY = "0123456789abcdef0123"
HOLDER = """
import sys, time
from pathlib import Path
from benchmarks.records.claims import Claims
with Claims(Path(sys.argv[1])) as claims:
    print(claims.take(sys.argv[2]), flush=True)
    time.sleep(600)
"""


@pytest.fixture
def clock(monkeypatch):
    class Clock:
        now = 1000.0

    monkeypatch.setattr(module.time, "monotonic", lambda: Clock.now)
    return Clock


def written(folder, **changes):
    """A claim of another process, as it lies there."""
    path = folder / FOLDER / KEY
    path.parent.mkdir(exist_ok=True)
    facts = {"host": "elsewhere", "space": "", "pid": 1, "born": 0.0, "token": "theirs"}
    path.write_text(json.dumps({**facts, **changes}))
    return path


def test_one_holder_at_a_time(tmp_path):
    with Claims(tmp_path) as one, Claims(tmp_path) as other:
        assert one.take(KEY)
        assert one.take(KEY), "it is ours already"
        assert not other.take(KEY)
        assert one.holder(KEY) is None
        assert other.holder(KEY) == f"process {os.getpid()} on {one._me['host']}"
        other.free(KEY)
        assert not other.take(KEY), "nobody frees what is another's"
        one.free(KEY)
        assert other.holder(KEY) is None
        assert other.take(KEY)
        assert not one.take(KEY)
    assert not list(tmp_path.iterdir()), "nothing is left"


def raced(folder, number, gate, found):
    with Claims(folder) as claims:
        gate.wait()
        found.put([key for key in map(str, range(40)) if claims.take(key)])
        gate.wait()


@pytest.mark.parametrize("abandoned", [False, True])
def test_of_several_processes_at_once_one_gets_each(tmp_path, abandoned):
    context = multiprocessing.get_context("fork")
    gate, found = context.Barrier(4), context.SimpleQueue()
    if abandoned:  # by a process that is gone
        facts = {**module._whereabouts(), "token": "x", "born": 1.0}
        (tmp_path / FOLDER).mkdir()
        for key in range(40):
            (tmp_path / FOLDER / str(key)).write_text(json.dumps(facts))
    ones = [context.Process(target=raced, args=(tmp_path, i, gate, found)) for i in range(4)]
    for one in ones:
        one.start()
    taken = [found.get() for _ in ones]
    for one in ones:
        one.join()
        assert one.exitcode == 0
    assert sorted(itertools.chain(*taken), key=int) == [str(i) for i in range(40)]
    assert not list(tmp_path.iterdir())


def test_a_killed_process_holds_nothing(tmp_path):
    arguments = [sys.executable, "-c", HOLDER, str(tmp_path), KEY]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "True\n"
        with Claims(tmp_path) as claims:
            assert claims.holder(KEY).startswith(f"process {process.pid} on ")
            assert not claims.take(KEY)
            process.kill()
            process.wait()
            assert claims.take(KEY)
    assert not list(tmp_path.iterdir())


def test_a_process_of_the_same_number_is_another(tmp_path):
    with Claims(tmp_path) as claims:
        me = module._whereabouts()
        written(tmp_path, **{**me, "born": me["born"] - 60})
        assert claims.take(KEY)


@pytest.mark.parametrize("clocks", [-86400, 0, 86400])
def test_a_lease_ends_by_the_own_clock_however_those_of_others_go(tmp_path, clock, clocks):
    path = written(tmp_path)
    os.utime(path, (path.stat().st_mtime + clocks,) * 2)
    with Claims(tmp_path) as claims:
        assert not claims.take(KEY)
        clock.now += LEASE - 1
        assert not claims.take(KEY)
        os.utime(path, (path.stat().st_mtime + 20,) * 2)  # it is alive
        clock.now += 2
        assert not claims.take(KEY)
        clock.now += LEASE - 1
        assert not claims.take(KEY)
        clock.now += 2
        assert claims.take(KEY)


def test_another_container_of_the_machine_is_not_taken_for_a_dead_process(tmp_path):
    with Claims(tmp_path) as claims:
        me = module._whereabouts()
        written(tmp_path, **{**me, "space": "pid:[1]", "pid": 999999999})
        assert not claims.take(KEY)


def test_what_was_taken_over_is_not_freed_by_who_had_it_before(tmp_path):
    with Claims(tmp_path) as claims:
        assert claims.take(KEY)
        path = written(tmp_path)
        claims.free(KEY)
        assert json.loads(path.read_text())["token"] == "theirs"


def test_claims_are_touched_while_they_are_held(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "BEAT", 0.01)
    with Claims(tmp_path) as claims:
        assert claims.take(KEY)
        path = tmp_path / FOLDER / KEY
        os.utime(path, (0, 0))
        for _ in range(1000):
            if path.stat().st_mtime > 0:
                break
            claims._closed.wait(0.01)
        assert path.stat().st_mtime > 0


def test_an_empty_claim_is_one_until_the_lease_ends(tmp_path, clock):
    (tmp_path / FOLDER).mkdir()
    (tmp_path / FOLDER / KEY).write_text("")
    with Claims(tmp_path) as claims:
        assert not claims.take(KEY)
        clock.now += LEASE + 1
        assert claims.take(KEY)


def test_where_claims_cannot_be_written_the_run_goes_on(tmp_path):
    (tmp_path / FOLDER).write_text("in the way")
    with (
        pytest.warns(UserWarning, match=r"not shared with other commands: .*\.claims/"),
        Claims(tmp_path) as claims,
    ):
        assert claims.take(KEY)
