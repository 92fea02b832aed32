"""Limits on logits and top-1, by hand."""

import numpy as np
import pytest

from benchmarks.export.checks.agreement import DRIFT, Agreement

RANDOM = np.random.default_rng(0)
OURS = RANDOM.normal(size=(40, 10)).astype(np.float32)
LABELS = OURS.argmax(1)


def test_equal_logits_agree():
    found = Agreement.of(OURS, OURS, LABELS)
    assert found.beyond() == []
    assert (found.images, found.equal, found.accuracy, found.moved) == (40, 40, (100.0, 100.0), 0)
    assert (found.largest, found.drift, found.lost) == (0.0, 0.0, 0)


def test_a_shift_of_all_classes_is_no_drift():
    assert Agreement.of(OURS, OURS + 1, LABELS).drift < 1e-6


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_unrelated_logits_are_beyond_both_limits(scale):
    theirs = RANDOM.normal(size=OURS.shape)
    found = Agreement.of(scale * OURS, scale * theirs, LABELS)
    assert found.drift > DRIFT
    assert [line.partition(":")[0] for line in found.beyond()] == ["the logits", "top-1"]


def test_the_limits():
    """Four of forty images may lose their lead, five may not; half of them may drift."""
    for count, lines in ((4, 0), (5, 1), (21, 2)):
        theirs = OURS.copy()
        theirs[:count] = -theirs[:count]
        found = Agreement.of(OURS, theirs, LABELS)
        assert (found.lost, len(found.beyond())) == (count, lines)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused_on_either_side(value):
    other = OURS.copy()
    other[3, 4] = value
    for pair in ((OURS, other), (other, OURS)):
        assert any("not finite" in line for line in Agreement.of(*pair, LABELS).beyond())


def test_logits_without_a_spread_leave_float_arithmetic():
    flat = np.full((4, 10), 3.0, np.float32)
    assert Agreement.of(flat, flat * np.float32(1 + 1e-6), LABELS[:4]).drift < 0.1
    assert Agreement.of(0 * flat, 0 * flat, LABELS[:4]).beyond() == []
