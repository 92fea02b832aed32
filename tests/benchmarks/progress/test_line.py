"""One line of progress: on a terminal, and in a file."""

import io

import pytest

from benchmarks.progress import line as module
from benchmarks.progress.line import Line, line


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    """Seconds that a test sets."""
    now = [1000.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def test_a_file_gets_a_line_a_stage_and_one_every_half_minute(clock):
    stream = io.StringIO()
    shows = Line(stream)
    for epoch in range(8):
        shows(epoch, 8, f"pretraining, loss {2.5 - epoch / 10:.2f}")
        clock[0] += 10
    shows(0, 1, "writing the file")
    shows.close()
    assert stream.getvalue().splitlines() == [
        "... pretraining, loss 2.50 0/8",
        "... pretraining, loss 2.20 3/8",
        "... pretraining, loss 1.90 6/8",
        "... writing the file",
    ]


def test_a_terminal_keeps_one_line_within_its_width_and_loses_it(monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    stream = Terminal()

    def work():
        with line(stream) as shows:
            shows(1, 3, "a stage whose name is longer than forty columns are")
            shows(2, 3, "short \x1b[2J\nname")
            raise KeyError

    with pytest.raises(KeyError):
        work()
    parts = stream.getvalue().split("\r\x1b[K")
    assert parts[0] == parts[-1] == ""
    assert parts[1] == "a stage whose name is longer than forty"
    assert len(parts[2]) < 40
    assert parts[2].isprintable()
    assert parts[2].endswith("2/3")


def test_what_is_never_used_writes_nothing():
    stream = Terminal()
    with line(stream):
        pass
    assert stream.getvalue() == ""
