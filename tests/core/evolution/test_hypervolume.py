import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from frameworks.core.evolution.hypervolume import hypervolume

VALUES = st.integers(0, 9).map(float)


def by_inclusion(points, reference):
    """The volume of a union of boxes, by inclusion and exclusion."""
    total = 0.0
    for count in range(1, len(points) + 1):
        for some in itertools.combinations(points, count):
            sides = [r - max(p[i] for p in some) for i, r in enumerate(reference)]
            total += (-1) ** (count + 1) * math.prod(max(side, 0.0) for side in sides)
    return total


@pytest.mark.parametrize(
    ("points", "reference", "volume"),
    [
        ([], (1.0, 1.0), 0.0),
        ([(3.0,), (1.0,)], (5.0,), 4.0),
        ([(1.0, 2.0), (2.0, 1.0)], (3.0, 3.0), 3.0),
        ([(0.0, 0.0, 0.0)], (2.0, 3.0, 4.0), 24.0),
        ([(0.0, 5.0)], (3.0, 3.0), 0.0),
    ],
)
def test_volumes_worked_by_hand(points, reference, volume):
    assert hypervolume(points, reference) == volume


@given(st.integers(1, 4).flatmap(lambda n: st.lists(st.tuples(*[VALUES] * n), max_size=6)))
def test_it_is_the_union_of_the_boxes(points):
    reference = (8.0,) * (len(points[0]) if points else 2)
    assert hypervolume(points, reference) == pytest.approx(by_inclusion(points, reference))
