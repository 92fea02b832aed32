"""Distances from ties by hand, and for any values and codes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.export.checks.ties import (
    CODES_TIED,
    FEW,
    LOGITS,
    PART,
    TIE,
    Ties,
    Tolerance,
    distances,
)


def one(steps, theirs, low=0, high=7):
    return float(distances(np.array([steps]), np.array([float(theirs)]), low, high)[0])


@pytest.mark.parametrize(
    ("steps", "theirs", "distance"),
    [
        (2.0, 2, -1),  # the same code
        (2.5, 2, -1),  # half to even
        (2.5, 3, 0.0),  # exactly on the tie
        (2.75, 2, 0.25),
        (2.25, 3, 0.25),
        (2.0, 3, 0.5),  # on a code, but another one: as far as can be
        (2.0, 4, 1.5),  # no neighbour
        (9.0, 7, -1),  # clipped
        (7.5, 8, np.inf),  # no code of this grid, near as it is
        (-0.5, -1, np.inf),
        (9.0, 6, 0.5),  # clipped: the tie of 6 and 7 is half a step from 7
        (np.nan, 2, np.inf),
        (np.inf, 2, np.inf),
        (2.0, np.nan, np.inf),
    ],
)
def test_distances_by_hand(steps, theirs, distance):
    assert one(steps, theirs) == distance


@given(st.floats(-20, 20), st.integers(-8, 7))
def test_only_neighbours_at_a_tie_are_close_to_one(steps, theirs):
    found = one(steps, theirs, -8, 7)
    ours = float(np.round(np.clip(steps, -8, 7)))
    assert (found == -1) == (ours == theirs)
    if 0 <= found < 0.5:
        assert abs(ours - theirs) == 1
        assert abs(np.clip(steps, -8, 7) - (ours + theirs) / 2) == pytest.approx(found)


def test_what_explains_a_difference():
    few, many = np.array([255.0]), np.array([65535.0])  # of 8 and 16 bits
    assert Tolerance().steps(few) == pytest.approx(0.00102, rel=1e-6)
    assert Tolerance().steps(np.array([15.0])) == TIE
    assert 0.2 < Tolerance().steps(many) < 0.3
    assert Tolerance(0.1).steps(few) == 0.1
    assert Tolerance(moved=0.5).steps(np.array([15.0]), step=2.0) == TIE + 0.25
    assert Tolerance(moved=0.5).real(np.array([-30.0])) == pytest.approx(30 * LOGITS + 0.5)
    one, many = np.array([1.0]), np.array([1e6])
    assert Tolerance().clipped(one, one, 0.5) == pytest.approx(0.5 * PART, rel=1e-2)
    assert Tolerance(0.1).clipped(one, one, 0.5) == pytest.approx(0.5 * 0.1, rel=1e-2)
    assert Tolerance().clipped(many, one, 0.0) == pytest.approx(4.0)
    assert Tolerance().clipped(one, one, 0.0) == pytest.approx(LOGITS)
    assert Tolerance().steps(np.array([np.inf])) == TIE


def test_ties_are_counted_and_too_many_are_none():
    ties = Ties()
    off = np.full(100_000, -1.0)
    most = int(FEW + (2 * TIE + CODES_TIED) * len(off))
    off[:most] = TIE / 2
    assert not ties.add(off, TIE).any()
    assert (ties.tied, ties.distance, ties.too_many) == (most, TIE / 2, False)
    wrong = ties.add(np.array([TIE, 2 * TIE, np.inf, np.nan]), TIE)
    assert wrong.tolist() == [False, True, True, True]
    assert ties.too_many
