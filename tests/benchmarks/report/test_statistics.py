import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.report.numbers.statistics import (
    bootstrap,
    estimate,
    pareto_front,
    performance_ratios,
    profile,
    profile_area,
)

numbers = st.floats(-1000, 1000, allow_nan=False)
samples = st.lists(numbers, min_size=2, max_size=12)


def test_one_value_has_no_interval_and_none_has_no_estimate():
    assert bootstrap([3.0]) is None
    one = estimate([3.0])
    assert (one.mean, one.low, one.high, one.n) == (3.0, None, None, 1)
    assert estimate([]) is None


def test_interval_of_three_values_is_their_range():
    # The resample that repeats the smallest has probability 1/27 = 3.7 % > 2.5 %.
    assert bootstrap([5.0, 1.0, 3.0]) == (1.0, 5.0)


def test_interval_of_four_values_against_all_256_resamples():
    values = [0.0, 1.0, 4.0, 10.0]
    means = sorted(sum(draw) / 4 for draw in itertools.product(values, repeat=4))
    # 2.5 % of 256 resamples are 6.4, so the seventh from either end.
    assert bootstrap(values) == (means[6], means[-7])


def test_interval_of_many_values_is_drawn_the_same_every_time():
    values = [float(i) for i in range(20)]
    low, high = bootstrap(values)
    assert bootstrap(values) == (low, high)
    # The standard error of the mean is sqrt(33.25 / 20) = 1.29.
    assert low == pytest.approx(9.5 - 1.96 * 1.289, abs=0.25)
    assert high == pytest.approx(9.5 + 1.96 * 1.289, abs=0.25)


@given(samples)
def test_interval_lies_within_the_range_and_ignores_the_order(values):
    low, high = bootstrap(values)
    assert min(values) <= low <= high <= max(values)
    assert bootstrap(values[::-1]) == (low, high)
    assert estimate(values) == estimate(values[::-1])


@given(st.lists(st.integers(-50, 50), min_size=2, max_size=7))
def test_interval_is_mirrored_with_the_values(values):
    low, high = bootstrap(values)
    assert bootstrap([-v for v in values]) == (pytest.approx(-high), pytest.approx(-low))


def test_ratios_profile_and_area_by_hand():
    problems = [
        {"a": 10.0, "b": 12.0, "c": math.inf},
        {"a": 6.0, "b": 4.0},
        {"a": 0.0, "b": 1.0, "c": 0.0},
    ]
    ratios = performance_ratios(problems)
    assert ratios == {"a": [1.0, 1.5, 1.0], "b": [1.2, 1.0, math.inf], "c": [math.inf, 1.0]}
    assert profile(ratios["a"], 1.0) == pytest.approx(2 / 3)
    assert profile(ratios["a"], 1.5) == 1.0
    # From 1 to 2: heights 2/3 up to 1.5, then 1.
    assert profile_area(ratios["a"], 2.0) == pytest.approx((2 / 3 + 1) / 2)
    assert profile_area(ratios["b"], 2.0) == pytest.approx((0.8 + 1.0 + 0.0) / 3)
    assert performance_ratios([{"a": math.inf}]) == {"a": [math.inf]}


@given(st.lists(st.floats(1, 5), min_size=1, max_size=8))
def test_area_is_the_integral_of_the_profile(ratios):
    steps = 4000
    heights = [profile(ratios, 1 + (i + 0.5) / steps) for i in range(steps)]
    assert profile_area(ratios, 2.0) == pytest.approx(sum(heights) / steps, abs=2e-3)


def test_pareto_front_by_hand():
    points = [(3, 5), (1, 2), (2, 2), (2, 4), (4, 5), (3, 4), (1, 1)]
    assert pareto_front(points) == [(1, 2), (2, 4), (3, 5)]
    assert pareto_front([]) == []
