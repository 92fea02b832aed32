"""Tests of the trend test that says whether a search learned."""

import itertools
import math

import numpy as np
import pytest

from frameworks import Learning


def counted(values: list[float]) -> float:
    """Mann-Kendall by counting all orders: how often chance shows at least this trend upward."""

    def agreement(order: tuple[float, ...]) -> int:
        return sum((b > a) - (b < a) for a, b in itertools.combinations(order, 2))

    every = [agreement(order) for order in itertools.permutations(values)]
    return sum(found >= agreement(tuple(values)) for found in every) / len(every)


@pytest.mark.parametrize("values", [[1, 2, 3, 4, 5], [2, 1, 3, 5, 4, 6], [3, 1, 2], [5, 4, 3, 2]])
def test_p_value_is_the_share_of_orders_with_as_strong_a_trend(values: list[float]) -> None:
    assert Learning("reward", values).p_value == pytest.approx(counted(values))
    assert Learning("loss", [-v for v in values], higher=False).p_value == pytest.approx(
        counted(values)
    )


def test_noise_is_seldom_called_learning_and_a_trend_in_it_is() -> None:
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(400, 60))
    flat = sum(Learning("reward", list(row)).improved for row in noise) / 400
    assert 0.02 < flat < 0.09  # 5 % by the level
    rising = noise + np.linspace(0, 3, 60)
    assert all(Learning("reward", list(row)).improved for row in rising)
    assert not any(Learning("loss", list(row), higher=False).improved for row in rising)


@pytest.mark.parametrize("values", [[], [1.0], [2.0] * 9, [1.0, math.nan, 3.0, 4.0, 5.0, 6.0]])
def test_what_cannot_show_a_trend_has_not_learned(values: list[float]) -> None:
    assert not Learning("reward", values).improved


def test_notes_hold_the_ends_and_a_short_curve_with_the_same_mean() -> None:
    values = [float(i) for i in range(200)]
    found = Learning("reward", values).to_json()
    assert (found["start"], found["end"]) == (19.5, 179.5)
    assert len(found["curve"]) == 60
    assert found["improved"] is True
    assert found["curve"] == sorted(found["curve"])
    assert Learning("reward", [1.0, 3.0]).to_json()["curve"] == [1.0, 3.0]
