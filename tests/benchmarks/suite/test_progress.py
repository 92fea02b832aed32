import io

import pytest

from benchmarks.records.record import Record
from benchmarks.suite import progress
from benchmarks.suite.progress import Display, duration, title

CELL = {
    "framework": {"name": "haq"},
    "model": {"name": "resnet8"},
    "dataset": {"name": "digits"},
    "hardware": {"name": "bops"},
    "budget": {"like": 3},
    "protocol": {"name": "ptq"},
    "seed": 1,
}
NAME = "haq resnet8 digits bops like=3 ptq seed=1"


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test moves."""

    class Clock:
        now = 100.0

    monkeypatch.setattr(progress.time, "monotonic", lambda: Clock.now)
    return Clock


def done(**more):
    fields = {"budget": {"within": True}, "accuracy": {"final": 90.126}, "timings": {"total": 12.3}}
    return Record(key="k", cell=CELL, status="done", **{**fields, **more})


def test_a_cell_has_a_short_name():
    assert title(CELL) == NAME
    assert title({**CELL, "budget": {"ratio": 0.25, "metric": "size"}}).split()[4:6] == [
        "ratio=0.25",
        "size",
    ]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"), (45.4, "45 s"), (89.4, "89 s"), (90, "2 min"), (600, "10 min"),
        (5369, "89 min"), (5371, "1 h 30 min"), (12_000, "3 h 20 min"), (7200, "2 h 00 min"),
    ],
)  # fmt: skip
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_finished_cells_are_counted_with_the_time_left(clock):
    stream = io.StringIO()
    display = Display(4, 1, stream)
    clock.now += 30
    display.finished(done())
    clock.now += 30
    display.finished(done(budget={"within": False}))
    display.finished(Record(key="k", cell=CELL, status="skipped", reason="no BatchNorm"))
    failed = Record(key="k", cell=CELL, status="failed", error="Traceback\n  x\nValueError: bad")
    display.finished(failed)
    assert stream.getvalue().splitlines() == [
        f"[1/4] {NAME}: 90.13 % in 12 s, 2 min left",
        f"[2/4] {NAME}: 90.13 % OVER BUDGET in 12 s, 60 s left",
        f"[3/4] {NAME}: skipped (no BatchNorm), 20 s left",
        f"[4/4] {NAME}: FAILED in 0 s (ValueError: bad), all in 60 s",
    ]


def test_a_failure_without_a_message_is_shown(clock):
    stream = io.StringIO()
    Display(1, 1, stream).finished(Record(key="k", cell=CELL, status="failed"))
    assert "FAILED in 0 s (no message)" in stream.getvalue()


def test_in_a_file_what_is_under_way_is_shown_only_after_a_while(clock):
    stream = io.StringIO()
    display = Display(1, 1, stream)
    display.stage("a", 1, 10, "episode")
    assert stream.getvalue() == ""
    clock.now += progress.QUIET_SECONDS + 1
    display.stage("a", 2, 10, "episode")
    display.stage("a", 3, 10, "episode")
    assert stream.getvalue() == "... a: episode 2/10\n"
    clock.now += progress.QUIET_SECONDS + 1
    display.stage("b", 0, 1, "measuring")
    assert stream.getvalue().splitlines()[1] == "... a: episode 3/10 | b: measuring"


def test_a_terminal_shows_one_line_that_is_rewritten(clock):
    stream = Terminal()
    display = Display(1, 1, stream)
    display.stage(NAME, 1, 10, "episode")
    display.stage(NAME, 2, 10, "e")
    shown = stream.getvalue()
    first, second = shown.split("\r")[1:]
    assert first == f"{NAME}: episode 1/10"
    assert second.rstrip() == f"{NAME}: e 2/10"
    assert len(second) == len(first), "the longer line before it is overwritten"
    display.finished(done())
    cleared, line = stream.getvalue()[len(shown) :].split("\r")[1:]
    assert not cleared.strip()
    assert line.startswith("[1/1]")
    assert "\n" not in shown


def test_a_finished_cell_is_no_longer_under_way(clock):
    stream = Terminal()
    display = Display(2, 2, stream)
    display.stage(NAME, 1, 10, "episode")
    display.finished(done())
    stream.truncate(0)
    display.stage("other", 1, 2, "x")
    assert "episode" not in stream.getvalue()
