"""The time that cells have, and how it is given."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.records.cache import WAITING
from benchmarks.suite.options.limits import seconds
from benchmarks.suite.running import place as module
from benchmarks.suite.running.place import STARTING, Clock


@pytest.fixture
def now(monkeypatch):
    class Now:
        value = 0.0

    monkeypatch.setattr(module.time, "monotonic", lambda: Now.value)
    return Now


def test_the_time_begins_with_the_first_message(now):
    clock = Clock(10)
    now.value += 60
    assert not clock.late
    clock.hears("loading")
    now.value += 10
    assert not clock.late
    now.value += 1
    assert clock.late


def test_a_worker_that_never_begins_is_late_in_the_end(now):
    clock = Clock(10)
    now.value += STARTING + 9
    assert not clock.late
    now.value += 2
    assert clock.late


def test_it_stands_still_while_the_cell_waits_for_another(now):
    clock = Clock(10)
    clock.hears("loading")
    now.value += 9
    clock.hears(WAITING)
    now.value += 3600
    assert not clock.late
    clock.hears(WAITING)
    now.value += 3600
    clock.hears("pretraining")
    assert not clock.late
    now.value += 2
    assert clock.late
    assert clock.stage == "pretraining"


def test_without_a_limit_nothing_is_late(now):
    clock = Clock(None)
    now.value += 1e9
    assert not clock.late


@pytest.mark.parametrize(
    ("given", "found"),
    [
        (None, None), (90, 90), (0.5, 0.5), ("90", 90), ("90s", 90), ("30m", 1800), ("2h", 7200),
        ("1d", 86400), ("1h30m", 5400), ("1.5h", 5400), (" 2 H ", 7200),
    ],
)  # fmt: skip
def test_durations(given, found):
    assert seconds("timeout", given) == found


@pytest.mark.parametrize(
    "bad", [0, -1, "-5m", "", "soon", "5 minutes", "m", "1h-2m", True, "nan", float("inf"), [3]]
)
def test_what_is_no_duration_is_refused_with_examples(bad):
    with pytest.raises(ValueError, match=r"^timeout = .*give seconds.*timeout=30m or timeout=2h"):
        seconds("timeout", bad)


@given(st.integers(0, 99), st.integers(0, 59), st.integers(0, 59))
def test_parts_add_up(hours, minutes, rest):
    if hours or minutes or rest:
        text = f"{hours}h{minutes}m{rest}s"
        assert seconds("timeout", text) == 3600 * hours + 60 * minutes + rest
