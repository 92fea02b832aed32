import numpy as np

from frameworks.metaheuristic.mohaq.repair import draw_within, lowered


def rng(seed=0):
    return np.random.default_rng(seed)


def test_what_fits_stays_as_it_is():
    assert lowered([3, 0, 5], [0, 0, 0], lambda genes: True, rng()) == (3, 0, 5)


def test_it_steps_down_only_as_far_as_it_must():
    def fits(genes):
        return sum(genes) <= 10

    for seed in range(20):
        found = lowered([5, 5, 2, 5], [0, 0, 2, 0], fits, rng(seed))
        # One step down costs one, so the first sum that fits is the limit itself.
        assert sum(found) == 10
        assert found[2] == 2
        assert 0 <= min(found) <= max(found) <= 5


def test_every_gene_takes_its_share_of_the_steps():
    def fits(genes):
        return sum(genes) <= 6

    generator = rng()
    found = np.array([lowered([4, 4, 4], [0, 0, 0], fits, generator) for _ in range(600)])
    assert np.abs(found.mean(0) - 2).max() < 0.15


def test_where_nothing_fits_the_bounds_come_back():
    assert lowered([3, 2], [1, 0], lambda genes: False, rng()) == (1, 0)


def test_draws_are_uniform_where_there_is_no_limit():
    found = np.array(draw_within(3000, [0, 1], [2, 4], lambda genes: True, rng()))
    for column, values in ((0, (0, 1, 2)), (1, (1, 2, 3, 4))):
        shares = [(found[:, column] == value).mean() for value in values]
        assert np.abs(np.array(shares) - 1 / len(values)).max() < 0.03


def test_draws_keep_to_the_limit_and_repeat():
    def fits(genes):
        return np.prod(np.array(genes) + 2) <= 200

    first = draw_within(50, [0] * 4, [5] * 4, fits, rng(1))
    assert all(fits(genes) for genes in first)
    assert len(set(first)) > 20
    assert first == draw_within(50, [0] * 4, [5] * 4, fits, rng(1))
