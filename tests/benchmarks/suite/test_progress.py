import pytest

from benchmarks.records.record import Record
from benchmarks.suite.progress import outcome, title

CELL = {
    "framework": {"name": "haq"},
    "model": {"name": "resnet8"},
    "dataset": {"name": "digits"},
    "hardware": {"name": "bops"},
    "budget": {"like": 3},
    "protocol": {"name": "ptq"},
    "seed": 1,
}
DONE = {"budget": {"within": True}, "accuracy": {"final": 90.126}, "timings": {"total": 12.3}}


def test_a_cell_has_a_short_name():
    assert title(CELL) == "haq resnet8 digits bops like=3 ptq seed=1"
    assert title({**CELL, "budget": {"ratio": 0.25, "metric": "size"}}).split()[4:6] == [
        "ratio=0.25",
        "size",
    ]


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"status": "done", **DONE}, "90.13 % in 12 s"),
        ({"status": "done", **DONE, "budget": {"within": False}}, "90.13 % OVER BUDGET in 12 s"),
        ({"status": "skipped", "reason": "no BatchNorm"}, "skipped (no BatchNorm)"),
        (
            {"status": "failed", "error": "Traceback\n  x\nValueError: bad"},
            "FAILED in 0 s (ValueError: bad)",
        ),
        ({"status": "failed"}, "FAILED in 0 s (no message)"),
    ],
)
def test_how_a_cell_ended(fields, text):
    assert outcome(Record(key="k", cell=CELL, **fields)) == text
