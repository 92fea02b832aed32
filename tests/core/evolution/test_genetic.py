import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from frameworks.core.evolution.genetic import Genetic, Settings


def anything(genes):
    return True


def genetic(counts=(4,) * 6, seed=0, feasible=anything, **options):
    fields = {k: options.pop(k) for k in list(options) if k in Settings.__dataclass_fields__}
    rng = np.random.default_rng(seed)
    return Genetic(counts, rng, Settings(**fields), feasible=feasible, **options)


def run(search, worth, evaluations):
    """Evaluate so many genomes; the best of them, and each generation."""
    generations, count = [], 0
    while count < evaluations and (genomes := search.ask()):
        genomes = genomes[: evaluations - count]
        count += len(genomes)
        generations.append(genomes)
        search.tell([(genes, (worth(genes),)) for genes in genomes])
    return next(iter(search.parents), None), generations


def wish(genes):
    """Far from a wish, with an optimum of 0 that a weight makes hard to see."""
    return -sum((i + 1) * abs(g - (7 * i + 3) % 6) for i, g in enumerate(genes))


@pytest.mark.parametrize("seed", range(5))
def test_the_known_optimum_is_found(seed):
    (genes, (value,)), _ = run(genetic((6,) * 8, seed), wish, 1000)
    assert value == 0
    assert genes == tuple((7 * i + 3) % 6 for i in range(8))


@pytest.mark.parametrize("seed", range(3))
def test_the_optimum_within_a_limit_is_found(seed):
    """A knapsack of 4^6 genomes, by brute force."""
    price, value = (3, 1, 4, 1, 5, 2), (5, 1, 4, 2, 6, 3)

    def fits(genes):
        return sum(p * g for p, g in zip(price, genes, strict=True)) <= 16

    def worth(genes):
        return sum(v * g**0.5 for v, g in zip(value, genes, strict=True))

    best = max(map(worth, filter(fits, itertools.product(range(4), repeat=6))))
    found, generations = run(genetic((4,) * 6, seed, fits), worth, 400)
    assert found[1][0] == pytest.approx(best)
    assert all(map(fits, itertools.chain(*generations)))


def test_it_beats_uniform_draws():
    def drawn(seed):
        rng = np.random.default_rng(seed)
        return max(wish(row) for row in rng.integers(0, 6, (300, 8)).tolist())

    pairs = [(run(genetic((6,) * 8, seed), wish, 300)[0][1][0], drawn(seed)) for seed in range(10)]
    assert sum(ours > theirs for ours, theirs in pairs) >= 9


@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.integers(0, 99), st.integers(0, 6))
@settings(max_examples=40, deadline=None)
def test_members_are_distinct_feasible_and_within_their_values(counts, seed, limit):
    search = genetic(
        counts, seed, lambda genes: sum(genes) <= limit,
        population=6, parents=3, mutants=3, children=3,
    )  # fmt: skip
    _, generations = run(search, sum, 40)
    seen = list(itertools.chain(*generations))
    assert len(seen) == len(set(seen)) <= search.draws
    assert all(sum(genes) <= limit for genes in seen)
    assert all(0 <= g < n for genes in seen for g, n in zip(genes, counts, strict=True))


def test_a_small_space_is_exhausted():
    found, generations = run(genetic((2, 2), tries=100), wish, 1000)
    assert sorted(itertools.chain(*generations)) == list(itertools.product(range(2), repeat=2))
    assert found[0] == max(itertools.product(range(2), repeat=2), key=wish)


def test_mutation_redraws_as_often_as_it_should():
    """Worked by hand for 8 genes of 6 values at p = 0.1: 0.6667 change, 0.4985 stay as they are."""
    search = genetic((6,) * 8)
    parent = (0,) * 8
    search.tell([(parent, (0.0,))])
    mutants = np.array([search.mutant() for _ in range(6000)])
    assert (mutants != 0).sum(1).mean() == pytest.approx(8 * 0.1 * 5 / 6, abs=0.04)
    assert (mutants == 0).all(1).mean() == pytest.approx((1 - 0.1 * 5 / 6) ** 8, abs=0.025)
    values = mutants[mutants != 0]
    assert np.bincount(values)[1:] == pytest.approx(len(values) / 5, rel=0.15)


def test_a_childs_genes_are_those_of_the_parents_half_and_half():
    search = genetic((10,) * 12, parents=2)
    search.tell([((1,) * 12, (2.0,)), ((2,) * 12, (1.0,)), ((3,) * 12, (0.0,))])
    children = np.array([search.child() for _ in range(2000)])
    assert set(np.unique(children)) == {1, 2}
    # Half of the pairs are one parent twice; the rest are mixed.
    mixed = children[(children != children[:, :1]).any(1)]
    assert len(mixed) / len(children) == pytest.approx(0.5, abs=0.04)
    assert (mixed == 1).mean() == pytest.approx(0.5, abs=0.02)


def test_units_mutate_and_cross_whole():
    units = [[0, 2], [1, 3]]
    search = genetic((50,) * 4, units=units)
    search.tell([((0,) * 4, (1.0,))])
    changed = np.array([search.mutant() for _ in range(5000)]) != 0
    assert changed[:, 0].mean() == pytest.approx(0.1 * 49 / 50, abs=0.015)
    both = changed[:, 0] & changed[:, 2]
    assert both.sum() / changed[:, 0].sum() > 0.95
    assert (changed[:, 0] & changed[:, 1]).mean() == pytest.approx(0.01, abs=0.005)
    search.tell([((7,) * 4, (2.0,))])
    assert {search.child() for _ in range(200)} == {
        (0, 0, 0, 0), (7, 7, 7, 7), (0, 7, 0, 7), (7, 0, 7, 0)
    }  # fmt: skip


def test_parents_are_the_best_of_all_generations():
    search = genetic((9,) * 4, parents=3, population=8, mutants=4, children=4)
    every = []
    for _ in range(5):
        scored = [(genes, (wish(genes), 0.0)) for genes in search.ask()]
        every += scored
        before = search.parents[0][1] if search.parents else (-np.inf,)
        search.tell(scored)
        assert search.parents[0][1] >= before
        assert [r for _, r in search.parents] == sorted((r for _, r in every), reverse=True)[:3]


def test_generations_are_as_large_as_asked():
    search = genetic((9,) * 6, population=30, mutants=7, children=5)
    first = search.ask()
    assert len(first) == 30
    search.tell([(genes, (wish(genes),)) for genes in first])
    assert len(search.ask()) == 12


def test_a_mutant_is_drawn_until_it_is_new():
    """At a probability of 0.02 most of them are their parent."""
    few, many = (genetic((9,) * 4, mutation=0.02, children=0, redraws=r) for r in (None, 1000))
    for search in (few, many):
        search.tell([((4,) * 4, (1.0,))])
        search._known.add((4,) * 4)
    found = [], []
    few._breed(found[0], 25, few.mutant)
    many._breed(found[1], 25, many.mutant)
    assert len(found[0]) < 24 < len(found[1]) == 25
    spent = genetic((2,), redraws=30)
    spent.tell([((0,), (1.0,))])
    spent._known |= {(0,), (1,)}
    assert spent.ask() == []
    assert spent.draws <= 30 * 2 + 10 * 50


def test_the_start_comes_first_if_it_is_feasible():
    start = [(1, 1, 1), (3, 3, 3), (1, 1, 1), (2, 0, 0)]
    search = genetic((4,) * 3, feasible=lambda genes: sum(genes) < 9, start=start)
    assert search.ask()[:2] == [(1, 1, 1), (2, 0, 0)]


def test_what_uniform_draws_never_meet_is_repaired():
    def fits(genes):
        return sum(genes) <= 12

    def lowered(genes):
        genes = list(genes)
        while sum(genes) > 12:
            genes[int(np.argmax(genes))] -= 1
        return tuple(genes)

    options = dict(feasible=fits, population=10, tries=2)
    assert len(genetic((8,) * 12, **options).ask()) == 0
    repaired = genetic((8,) * 12, **options, repair=lowered).ask()
    assert len(repaired) == 10
    assert all(map(fits, repaired))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"population": 0}, "population"),
        ({"parents": 0}, "parents"),
        ({"tries": 0}, "tries"),
        ({"redraws": 0}, "redraws"),
        ({"mutants": -1}, "mutants"),
        ({"mutants": 0, "children": 0}, "mutants and children"),
        ({"mutation": 1.5}, "mutation"),
        ({"mutation": float("nan")}, "mutation"),
        ({"units": [[0], [0, 1]]}, "units"),
    ],
)
def test_numbers_that_cannot_be_are_refused(changes, named):
    with pytest.raises(ValueError, match=named):
        genetic((2, 2), **changes)


def test_same_seed_same_search():
    runs = [run(genetic((6,) * 8, 3), wish, 200) for _ in range(2)]
    assert runs[0] == runs[1]
