import pytest

from benchmarks.records.record import Record
from benchmarks.suite.progress import Titles, outcome, title

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


def test_cells_of_one_name_are_told_apart_by_what_differs():
    def searched(**settings):
        return {**CELL, "framework": {"name": "greedy", "evaluations": 0, "images": 0, **settings}}

    cells = [searched(), searched(evaluations=5), searched(images=15056), CELL]
    names = [title(CELL), *map(Titles(cells), cells)]
    assert [name.removesuffix(" resnet8 digits bops like=3 ptq seed=1") for name in names] == [
        "haq",
        "greedy",
        "greedy (evaluations=5)",
        "greedy (images=15056)",
        "haq",
    ]
    # Alone, or with one of another seed, none needs more than its name.
    assert Titles([cells[1], {**cells[2], "seed": 2}])(cells[1]) == title(cells[1])
    deep = {**CELL, "model": {"name": "resnet8", "options": {"width": 8}}}
    wide = {**CELL, "model": {"name": "resnet8", "options": {"width": 16}}}
    assert Titles([deep, wide])(wide).startswith("haq resnet8 (options.width=16) digits")


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
