"""Numbers as they are shown, ticks and labels."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.report.numbers import format as show
from benchmarks.report.pictures import plot


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (999.96, "1k"), (29_250, "29.25k"), (1.6e9, "1.6G"), (0.5914, "0.5914")],
)
def test_prefixes(value, text):
    assert show.si(value) == text


def test_other_number_formats():
    assert show.signed(-0.001) == "0.00"
    assert [show.fixed(x) for x in (-0.001, -0.0, 0.004, -1.239)] == [*["0.00"] * 3, "-1.24"]
    assert show.signed(0.5) == "+0.50"
    assert [show.seconds(s) for s in (0.004, 3.25, 119.0, 600.0, 7300.0)] == [
        "0.004 s",
        "3.25 s",
        "119 s",
        "10 min",
        "2.03 h",
    ]
    assert show.memory(3 * 2**29) == "1.5 GiB"
    assert show.limit(29250.0, "bytes") == "29,250 bytes"


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6))
def test_ticks_are_few_and_inside(low, span):
    found = plot.ticks(low, low + span, 5)
    assert len(found) <= 6
    assert all(low - span * 1e-6 <= t <= low + span * 1.000001 for t in found)


@given(st.lists(st.floats(0, 400), min_size=1, max_size=12))
def test_labels_are_spread_in_order(positions):
    placed = plot.spread(positions, 10)
    order = sorted(range(len(positions)), key=lambda i: positions[i])
    gaps = [placed[j] - placed[i] for i, j in itertools.pairwise(order)]
    assert all(gap > 5 for gap in gaps)
