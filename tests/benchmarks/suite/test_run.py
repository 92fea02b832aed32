"""Runs, with cells computed in this process: what happens around them is what is tested."""

import json
import os
import re
import subprocess
import sys
import threading
import time
from concurrent.futures import Future
from types import SimpleNamespace

import pytest
from loky.process_executor import TerminatedWorkerError

from benchmarks.progress.board import Board
from benchmarks.records.claims import Claims
from benchmarks.records.record import Record
from benchmarks.records.store import Store
from benchmarks.suite import run as runs
from benchmarks.suite.config import cell_of, composed
from benchmarks.suite.running import place as places
from benchmarks.suite.running.pool import Workers


@pytest.fixture(scope="module")
def three():
    base = cell_of(composed([]))
    return [{**base, "seed": seed} for seed in range(3)]


class Pool:
    """Runs what is submitted at once; a cell of a seed in ``deadly`` kills the worker."""

    deadly = ()
    computed = ()
    signal = "SIGSEGV(-11)"
    beside = ()

    def __init__(self, *_, **__):
        self.broken = None

    def submit(self, work, key, cell, folder):
        future = Future()
        if cell["seed"] in Pool.deadly:
            Pool.beside += (cell["seed"],)
            self.broken = TerminatedWorkerError(f"exit codes of the workers are {{{Pool.signal}}}")
        if self.broken:
            future.set_exception(self.broken)
        else:
            Pool.computed.append(cell["seed"])
            future.set_result(Record(key=key, cell=cell, status="skipped", reason="not today"))
        return future

    def shutdown(self, **_):
        pass


@pytest.fixture(autouse=True)
def pool(monkeypatch):
    monkeypatch.setattr(places, "ProcessPoolExecutor", Pool)
    monkeypatch.setattr(runs, "check", lambda cell: None)
    monkeypatch.setattr(Pool, "deadly", ())
    monkeypatch.setattr(Pool, "computed", [])
    monkeypatch.setattr(Pool, "beside", ())
    return Pool


def test_only_what_is_missing_is_computed(three, tmp_path, pool):
    first = runs.run(three[:2], tmp_path)
    assert (first.computed, pool.computed) == (2, [0, 1])
    second = runs.run([*three, three[0]], tmp_path)
    assert (second.computed, pool.computed) == (1, [0, 1, 2])
    assert [record.cell["seed"] for record in second.records] == [0, 1, 2]
    assert runs.run(three, tmp_path, rerun=True).computed == 3


def test_failures_are_tried_again_and_what_is_done_is_kept(three, tmp_path, pool):
    pool.deadly = (1,)
    outcome = runs.run(three, tmp_path)
    assert [r.status for r in outcome.records] == ["skipped", "failed", "skipped"]
    assert "worker process died" in outcome.failed[0].error
    pool.deadly = ()
    again = runs.run(three, tmp_path)
    assert again.computed == 1
    assert again.failed == []


def test_a_corrupt_record_is_computed_again_with_a_warning(three, tmp_path, pool):
    key = runs.run(three, tmp_path).records[1].key
    Store(tmp_path / "records").path(key).write_text("{")
    with pytest.warns(UserWarning, match=rf"computed again: .*{key}\.json"):
        outcome = runs.run(three, tmp_path)
    assert outcome.computed == 1
    assert pool.computed[3:] == [1]


def test_records_are_mirrored_once_each(three, tmp_path):
    class Tracker:
        seen = ()

        def record(self, record):
            self.seen += (record.cell["seed"],)

    tracker = Tracker()
    runs.run(three[:2], tmp_path, tracker=tracker)
    runs.run(three, tmp_path, tracker=tracker)
    assert sorted(tracker.seen[:2]) == [0, 1]
    assert tracker.seen[2:] == (2,)


def test_a_bad_cell_stops_the_run_before_anything_is_computed(three, tmp_path, pool, monkeypatch):
    def refused(cell):
        raise ValueError("budget.like = 9")

    monkeypatch.setattr(runs, "check", refused)
    with pytest.raises(ValueError, match=r"budget\.like"):
        runs.run(three, tmp_path)
    assert pool.computed == []
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize("signal", ["SIGSEGV(-11)", "SIGKILL(-9)", "EXIT(0)"])
def test_a_dead_worker_concerns_its_own_cell_which_is_tried_twice(
    three, tmp_path, pool, workers, signal, monkeypatch
):
    monkeypatch.setattr(pool, "signal", signal)
    pool.deadly = (0,)
    outcome = runs.run(three, tmp_path, workers=workers)
    assert [r.status for r in outcome.records] == ["failed", "skipped", "skipped"]
    assert pool.computed == [1, 2], "each once, whatever died beside"
    assert pool.beside == (0, 0)
    assert outcome.failed[0].error.endswith(signal)


def test_results_that_cannot_be_kept_are_named_before_anything_is_computed(
    three, tmp_path, pool, monkeypatch
):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.TemporaryFile", full)
    monkeypatch.setattr(runs, "by_key", pytest.fail)
    with pytest.raises(
        OSError, match=rf"results: {tmp_path}/records: cannot be written \(No space"
    ):
        runs.run(three, tmp_path)
    assert pool.computed == []
    assert not list(tmp_path.iterdir())


def test_a_disk_that_is_full_later_is_named_with_what_is_kept(three, tmp_path, monkeypatch, pool):
    replaced = os.replace

    def full(old, new):
        if len(list((tmp_path / "records").glob("*.json"))) == 2:
            raise OSError(28, "No space left on device")
        replaced(old, new)

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="No space left on device") as raised:
        runs.run(three, tmp_path, workers=1)
    assert re.search(rf"{tmp_path}/records/\w+\.json: cannot be written", str(raised.value))
    assert f"2 of 3 cells are done and kept in {tmp_path}/records\n" in str(raised.value)
    assert "run the same command again" in str(raised.value)
    records = sorted((tmp_path / "records").iterdir())
    assert [path.suffix for path in records] == [".json", ".json"], "no half-written file, no claim"
    assert [json.loads(path.read_text())["status"] for path in records] == ["skipped"] * 2


def test_all_that_is_there_is_shown_from_a_folder_that_is_only_read(three, tmp_path, monkeypatch):
    runs.run(three, tmp_path)

    def read_only(*_, **__):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("tempfile.TemporaryFile", read_only)
    monkeypatch.setattr("tempfile.mkstemp", read_only)
    assert runs.run(three, tmp_path).computed == 0
    with pytest.raises(OSError, match=r"records: cannot be written \(Read-only file system"):
        runs.run(three, tmp_path, rerun=True)


def test_what_another_command_computes_meanwhile_is_not_computed_here(three, tmp_path, pool):
    keys = runs.by_key(three, 1)
    mine, theirs, failing = keys
    store = Store(tmp_path / "records")
    with Claims(store.folder) as other:
        assert other.take(theirs)
        assert other.take(failing)

        def finish():
            waited_for = store.path(mine)
            while not waited_for.exists():
                time.sleep(0.01)
            for key, status in ((theirs, "skipped"), (failing, "failed")):
                store.put(Record(key=key, cell=keys[key], status=status, reason="theirs"))
                other.free(key)

        thread = threading.Thread(target=finish)
        thread.start()
        outcome = runs.run(three, tmp_path, workers=2)
        thread.join()
    assert pool.computed == [0]
    assert (outcome.computed, outcome.shared) == (1, 2)
    assert [r.status for r in outcome.records] == ["skipped", "skipped", "failed"]
    assert [r.reason for r in outcome.records] == ["not today", "theirs", "theirs"]
    assert not (store.folder / ".claims").exists()


def test_what_another_command_gives_up_is_computed_here(three, tmp_path, pool):
    keys = list(runs.by_key(three, 1))
    with Claims(tmp_path / "records") as other:
        assert other.take(keys[0])
        threading.Timer(0.3, lambda: other.free(keys[0])).start()
        outcome = runs.run(three, tmp_path, workers=1)
    assert pool.computed == [1, 2, 0]
    assert (outcome.computed, outcome.shared) == (3, 0)


def test_nothing_depends_on_the_display(three, tmp_path, monkeypatch, pool):
    class Broken(Board):
        def _line(self, text):
            raise OSError(5, "Input/output error")

        def _began(self):
            raise RuntimeError("rich gives up")

        def close(self):
            raise OSError(5, "Input/output error")

    monkeypatch.setattr("benchmarks.progress.show.board_for", Broken)
    outcome = runs.run(three, tmp_path, workers=2)
    assert [r.status for r in outcome.records] == ["skipped"] * 3
    assert len(list(Store(tmp_path / "records").records())) == 3


def test_a_folder_in_a_records_place_is_named_before_anything_is_computed(three, tmp_path, pool):
    key = runs.run(three, tmp_path).records[1].key
    path = Store(tmp_path / "records").path(key)
    path.unlink()
    path.mkdir()
    with (
        pytest.warns(UserWarning, match="computed again"),
        pytest.raises(IsADirectoryError, match=rf"{key}\.json: is a folder in the place"),
    ):
        runs.run(three, tmp_path)
    assert len(pool.computed) == 3


def test_what_no_record_can_hold_is_refused_before_anything_is_computed(three, tmp_path, pool):
    odd = {**three[0], "framework": {**three[0]["framework"], "lr": float("nan")}}
    with pytest.raises(ValueError, match=r"seed=0: framework\.lr is nan, which no record can hold"):
        runs.run([odd], tmp_path)
    assert pool.computed == []


def test_a_worker_that_sends_no_record_is_one_failed_cell(three):
    future = Future()
    future.set_exception(TypeError("cannot pickle"))
    place = SimpleNamespace(key="k", future=future)
    agenda = SimpleNamespace(todo={"k": three[0]})
    record = Workers(agenda, None, None, None)._outcome(place, three[0])
    assert (record.key, record.status) == ("k", "failed")
    assert "TypeError: cannot pickle" in record.error


def test_cells_that_differ_in_the_seed_are_checked_once(three):
    other = {**three[0], "budget": {"like": 3}}
    assert len(runs._distinct([*three, other])) == 2


ORPHAN = """
import multiprocessing, os, sys, time
from benchmarks.workers.stopping import end_with_parent

def child(pids):
    end_with_parent()
    pids.put(os.getpid())
    time.sleep(600)

if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    pids = context.SimpleQueue()
    context.Process(target=child, args=(pids,)).start()
    print(pids.get(), flush=True)
    os.kill(os.getpid(), 9)
"""


def test_workers_end_with_the_run_that_was_killed(tmp_path):
    script = tmp_path / "orphan.py"
    script.write_text(ORPHAN)
    ended = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, check=False, timeout=120
    )
    assert ended.returncode == -9
    child = int(ended.stdout)
    for _ in range(200):
        try:
            os.kill(child, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    os.kill(child, 9)
    pytest.fail("the worker lives on")


@pytest.mark.parametrize(("name", "value"), [("workers", -1), ("threads", 0), ("threads", 1.5)])
def test_a_count_that_means_nothing_is_refused_by_name(three, tmp_path, name, value, pool):
    with pytest.raises(ValueError, match=rf"^{name} = {value}: give a whole number of at least"):
        runs.run(three, tmp_path, **{name: value})
    assert not pool.computed
    assert not list(tmp_path.iterdir())


def test_a_workers_warnings_cannot_steer_a_terminal():
    code = (
        "import warnings; from benchmarks.suite.running import worker;"
        "from benchmarks.fingerprints.numerics import place;"
        "worker.stopping.end_with_parent = lambda: None; worker.begin(1, place(), None);"
        "warnings.warn('a\\x1b[2Jb\\nc')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert done.stderr.decode() == "juxtabit: warning: a\\x1b[2Jb c\n"
