import heapq
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.progress.times import Left, Running, Times, duration, recorded, seconds_of

KINDS = {"uniform": 2.0, "haq": 60.0, "dnas": 3600.0}


def cell(framework, seed=0, protocol="ptq", **params):
    return {
        "framework": {"name": framework, **params}, "model": {"name": "m"},
        "dataset": {"name": "d"}, "protocol": {"name": protocol}, "seed": seed,
        "budget": {"like": seed}, "hardware": {"name": "bops"},
    }  # fmt: skip


@pytest.fixture
def times():
    """Records of every kind, by a machine as fast as this one."""
    times = Times()
    for name, seconds in KINDS.items():
        times.learn(cell(name, 9), seconds, here=False)
    return times


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"), (45.4, "45 s"), (89.4, "89 s"), (90, "2 min"), (600, "10 min"),
        (5369, "89 min"), (5371, "1 h 30 min"), (12_000, "3 h 20 min"), (7200, "2 h 00 min"),
    ],
)  # fmt: skip
def test_durations(seconds, text):
    assert duration(seconds) == text


@given(
    names=st.lists(st.sampled_from(sorted(KINDS)), min_size=1, max_size=12),
    workers=st.integers(1, 4),
    at=st.floats(0, 1),
)
def test_the_time_left_is_that_of_the_schedule(names, workers, at):
    """Cells that take what others of their kind took: the schedule, cut at any time, is exact."""
    times = Times()
    for name, seconds in KINDS.items():
        times.learn(cell(name, 9), seconds, here=False)
    free, spans = [0.0] * workers, []
    for name in names:
        begin = heapq.heappop(free)
        spans.append((name, begin, begin + KINDS[name]))
        heapq.heappush(free, spans[-1][2])
    total = max(end for _, _, end in spans)
    now = at * total * 0.999
    waiting = [cell(name) for name, begin, _ in spans if begin > now]
    # One that takes nearly all that was expected may be taken to need a little more.
    running = [Running(cell(n), now - b) for n, b, end in spans if b <= now < end]
    left = times.left(waiting, running, workers)
    assert (left.unknown, left.known) == (0, len(waiting) + len(running))
    assert total - now - 1e-6 <= left.seconds <= total - now + 0.1 * max(KINDS.values())


def test_short_cells_say_nothing_of_long_ones(times):
    for seed in range(5):
        times.learn(cell("uniform", seed), 2.0, here=True)
    # A mean over all that are done would say 4 s.
    assert times.left([cell("haq"), cell("dnas")], [], 1).seconds == 3660


def test_of_an_unknown_kind_nothing_is_said(times):
    waiting = [cell("haq"), cell("new")]
    left = times.left(waiting, [], 1)
    assert (left, str(left)) == (Left(60.0, 1, 1), "over 60 s left")
    assert str(times.left([cell("new")], [], 1)) == "time left not known yet"
    assert str(times.left([cell("new"), cell("uniform")], [], 1)) == "time left not known yet"
    assert str(times.left([cell("haq")], [], 1)) == "about 60 s left"


def test_kinds_differ_in_what_takes_time_and_not_in_seed_budget_or_hardware():
    times = Times()
    times.learn(cell("haq", 1, episodes=600), 500.0, here=True)
    assert times.expected(cell("haq", 2, episodes=600)) == 500
    assert times.expected(cell("haq", 2, episodes=60)) is None
    assert times.expected(cell("haq", 2, protocol="controlled", episodes=600)) is None
    # A record of a version that had no such hyper-parameter.
    assert times.expected(cell("haq", 2, episodes=600, rounds=1)) == 500


def test_a_slower_machine_than_that_of_the_records_is_taken_into_account(times):
    times.learn(cell("haq", 1), 180.0, here=True)
    assert times.expected(cell("haq", 2)) == 180, "what was measured here counts alone"
    assert times.expected(cell("dnas", 2)) == pytest.approx(3 * 3600)


def test_what_is_under_way_counts(times):
    assert times.left([], [Running(cell("haq"), 20.0)], 2).seconds == 40
    assert times.left([], [Running(cell("haq"), 100.0)], 2).seconds == pytest.approx(10)
    pretrains = Running(cell("haq"), 0.0, more=30.0, searches=False)
    assert times.left([], [pretrains], 1).seconds == 90
    # Of an unknown kind the search itself says how long it takes, unless a training follows.
    assert times.left([], [Running(cell("new"), 5.0, more=45.0)], 1) == Left(45.0, 0, 1)
    trains = Running(cell("new", protocol="controlled"), 5.0, more=45.0)
    assert times.left([], [trains], 1) == Left(0.0, 1, 0)


def test_the_seconds_of_a_record_leave_out_the_making_of_its_float_network():
    timings = {"search": 5.0, "curve": 1.0, "measure": 2.0, "fine_tune": 1.5, "total": 700.0}
    assert seconds_of("done", timings) == 8
    assert seconds_of("failed", timings) is None
    assert seconds_of("skipped", {"total": 3.0}) == 0


def test_records_of_the_suite_and_its_neighbours_are_read_and_broken_ones_left(tmp_path):
    def put(suite, name, data):
        path = tmp_path / suite / "records" / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(data) if isinstance(data, dict) else data)

    timings = {"search": 3.0, "measure": 1.0}
    put("a", "1", {"cell": cell("haq"), "status": "done", "timings": timings})
    put("b", "2", {"cell": cell("dnas"), "status": "done", "timings": timings})
    put("b", "3", {"cell": cell("dnas"), "status": "failed", "timings": timings})
    for number, broken in enumerate(("{", "[]", "{}", '{"cell": 3, "status": "done"}')):
        put("a", f"broken{number}", broken)
    found = {c["framework"]["name"]: seconds for c, seconds in recorded(tmp_path / "a")}
    assert found == {"haq": 4.0, "dnas": 4.0}
