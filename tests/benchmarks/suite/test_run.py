"""Runs, with cells computed in this process: what happens around them is what is tested."""

import os
import subprocess
import sys
import time
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool

import pytest

from benchmarks.records.record import Record
from benchmarks.records.store import Store
from benchmarks.suite import run as runs
from benchmarks.suite.config import cell_of, composed
from benchmarks.suite.running import pool as pools


@pytest.fixture(scope="module")
def three():
    base = cell_of(composed([]))
    return [{**base, "seed": seed} for seed in range(3)]


class Pool:
    """Runs what is submitted at once; a cell of a seed in ``deadly`` kills the worker."""

    deadly = ()
    computed = ()

    def __init__(self, *_, **__):
        self.broken = False

    def submit(self, work, key, cell, folder):
        future = Future()
        if cell["seed"] in Pool.deadly:
            self.broken = True
        if self.broken:
            future.set_exception(BrokenProcessPool("gone"))
        else:
            Pool.computed.append(cell["seed"])
            future.set_result(Record(key=key, cell=cell, status="skipped", reason="not today"))
        return future

    def shutdown(self, **_):
        pass


@pytest.fixture(autouse=True)
def pool(monkeypatch):
    monkeypatch.setattr(pools, "ProcessPoolExecutor", Pool)
    monkeypatch.setattr(runs, "check", lambda cell: None)
    monkeypatch.setattr(Pool, "deadly", ())
    monkeypatch.setattr(Pool, "computed", [])

    def without_manager(todo, folder, workers, threads, keep, board):
        pools.Workers(folder, workers, threads, keep, board, None).persist(todo)

    monkeypatch.setattr(runs, "_compute", without_manager)
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
def test_only_cells_under_way_with_a_dead_worker_are_tried_alone(three, tmp_path, pool, workers):
    pool.deadly = (0,)
    outcome = runs.run(three, tmp_path, workers=workers)
    assert [r.status for r in outcome.records] == ["failed", "skipped", "skipped"]
    assert sorted(pool.computed) == [1, 2]


def test_results_that_cannot_be_kept_are_named_before_anything_is_computed(
    three, tmp_path, pool, monkeypatch
):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.TemporaryFile", full)
    with pytest.raises(
        OSError, match=rf"results: {tmp_path}/records: cannot be written \(No space"
    ):
        runs.run(three, tmp_path)
    assert pool.computed == []


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
    record = pools.outcome_of(future, "k", three[0])
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
