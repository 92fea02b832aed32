import io
import os
import pty
import re

import pytest
from rich.console import Console

from benchmarks.progress import board as boards
from benchmarks.progress import show
from benchmarks.progress.show import Foot, Lines, board_for

CELL = {
    "framework": {"name": "haq"}, "model": {"name": "m"}, "dataset": {"name": "d"},
    "protocol": {"name": "ptq"},
}  # fmt: skip
NAME = "haq resnet8 digits bops like=3 ptq seed=1"


class Pretended(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test moves."""

    class Clock:
        now = 100.0

    for module in (boards, show):
        monkeypatch.setattr(module.time, "monotonic", lambda: Clock.now)
    return Clock


def begun(kind, count=3):
    board = kind(io.StringIO())
    board.begin({f"k{i}": CELL for i in range(count)}, 1)
    return board


def lines(board):
    return board.stream.getvalue().splitlines()


def test_finished_cells_are_counted_with_the_time_left_of_their_kind(clock):
    board = begun(Lines)
    board.start("k0", NAME)
    clock.now += 300  # a pretraining, and a search of 30 s
    board.finished("k0", NAME, "90.13 % in 5 min", 30.0)
    board.finished("k1", NAME, "FAILED in 0 s (ValueError)", None)
    board.finished("k2", NAME, "skipped (no\x1b[2J BatchNorm)", 0.0)
    assert lines(board) == [
        "3 cells to compute, 1 at a time",
        f"[1/3] {NAME}: 90.13 % in 5 min, about 60 s left",
        f"[2/3] {NAME}: FAILED in 0 s (ValueError), about 30 s left",
        f"[3/3] {NAME}: skipped (no\\x1b[2J BatchNorm), all in 5 min",
    ]


def test_in_a_file_what_is_under_way_is_shown_once_a_minute(clock):
    board = begun(Lines)
    board.start("k0", NAME)
    for _ in range(130):
        clock.now += 1
        board.stage("k0", int(clock.now), 900, "search: episodes")
    assert lines(board)[1:] == [
        f"... cell 1 of 3: search: episodes 161/900 · {NAME}",
        f"... cell 1 of 3: search: episodes 222/900 · {NAME}",
    ]


def test_a_warning_is_shown_once(clock):
    board = begun(Lines)
    for _ in range(3):
        board.warn(UserWarning("a\x1b[2Jb\nc"))
    assert lines(board)[1:] == ["juxtabit: warning: a\\x1b[2Jb c"]


def test_a_stage_tells_how_long_it_takes_and_a_new_one_begins_anew(clock):
    board = begun(Lines)
    board.start("k0", NAME)
    under = board.under["k0"]
    board.stage("k0", 0, 10, "pretraining, loss 2.300")
    clock.now += 20
    board.stage("k0", 2, 10, "pretraining, loss 1.987")
    assert under.running(clock.now).more == 80
    assert not under.running(clock.now).searches
    board.stage("k0", 3, 100, "search: episodes")
    clock.now += 5
    assert under.running(clock.now) == boards.Running(CELL, 5.0, None)
    board.stage("k0", 4, 100, "search: episodes")
    assert under.running(clock.now).more == pytest.approx(5 * 96)


def test_a_cell_that_is_tried_again_is_the_same_cell(clock):
    board = begun(Lines)
    board.start("k0", NAME)
    board.stage("k0", 3, 9, "search")
    board.start("k0", NAME)
    assert board.rows() == [f"cell 1 of 3: starting · {NAME}"]


@pytest.mark.parametrize("columns", [20, 40, 60, 80, 200])
def test_a_terminal_of_any_width_shows_count_stage_and_time_left(columns, clock):
    board = begun(Foot, 12)
    board.close()
    for key in ("k0", "k1"):
        board.start(key, NAME * 5)
    board.stage("k0", 3, 30, "pretraining, loss 2.3")
    board.finished("k1", NAME, "fine", 3600.0)
    stream = io.StringIO()
    Console(file=stream, width=columns, height=30).print(board)
    shown = stream.getvalue().splitlines()
    assert len(shown) == 2
    assert max(map(len, shown)) <= columns
    if columns >= 40:
        assert shown[0].startswith("1 of 12 cells")
        assert shown[0].rstrip().endswith("about 11 h 00 min left")
        assert shown[1].startswith("cell 1 of 12: pretraining, loss")


def test_many_workers_do_not_outgrow_the_terminal(clock):
    board = begun(Foot, 100)
    board.close()
    for i in range(100):
        board.start(f"k{i}", NAME)
    stream = io.StringIO()
    console = Console(file=stream, width=80, height=30)
    console.print(board)
    assert len(stream.getvalue().splitlines()) < 30


def test_the_stream_decides_how_progress_is_shown(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    for stream, kind in ((io.StringIO(), Lines), (Pretended(), Foot)):
        board = board_for(stream)
        board.close()
        assert type(board) is kind
    monkeypatch.setenv("TERM", "dumb")
    assert type(board_for(Pretended())) is Lines


def test_what_stays_is_above_the_foot_and_the_cursor_is_given_back(clock):
    board = begun(Foot)
    board.finished("k0", NAME, "fine", 1.0)
    board.close()
    shown = board.stream.getvalue()
    assert "starting" in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown)
    assert shown.index("?25l") < shown.index("[1/3]") < shown.rindex("?25h")


def test_a_terminal_is_restored_and_a_file_left_alone(tmp_path):
    main, child = pty.openpty()
    with os.fdopen(child, "w") as stream:
        show.restore(stream)
        assert os.read(main, 99).endswith(b"\x1b[?25h")
    os.close(main)
    with (tmp_path / "x").open("w") as stream:
        show.restore(stream)
    assert (tmp_path / "x").read_text() == ""
