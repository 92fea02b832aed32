import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from frameworks.core.evolution.nsga2 import NSGA2, Member, crowding, dominates, fronts
from frameworks.core.evolution.variation import polynomial, sbx

VALUES = st.integers(0, 4).map(float)
MEMBERS = st.integers(1, 3).flatmap(
    lambda m: st.lists(
        st.builds(
            Member, st.just((0,)), st.tuples(*[VALUES] * m), st.sampled_from([0.0, 0.0, 0.5, 1.0])
        ),
        min_size=1,
        max_size=14,
    )
)


def beats(a, b):
    if a.violation > 0 or b.violation > 0:
        return a.violation < b.violation
    pairs = list(zip(a.objectives, b.objectives, strict=True))
    return all(x <= y for x, y in pairs) and any(x < y for x, y in pairs)


def peeled(members):
    left, found = list(range(len(members))), []
    while left:
        front = [i for i in left if not any(beats(members[j], members[i]) for j in left)]
        found.append(front)
        left = [i for i in left if i not in front]
    return found


@given(MEMBERS)
def test_the_fast_sort_agrees_with_peeling_by_definition(members):
    assert fronts(members) == peeled(members)


@given(MEMBERS)
def test_domination_agrees_with_its_definition(members):
    matrix = dominates(members)
    for (i, a), (j, b) in itertools.product(enumerate(members), repeat=2):
        assert matrix[i, j] == beats(a, b)


def test_crowding_by_hand():
    # First objective: spread 4, neighbours of the middle ones 0..2 and 1..4; second: spread 8.
    distance = crowding([(0, 8), (4, 0), (1, 6), (2, 2)])
    assert distance[0] == distance[1] == math.inf
    assert distance[2] == pytest.approx(2 / 4 + 6 / 8)
    assert distance[3] == pytest.approx(3 / 4 + 6 / 8)


def test_crowding_of_equal_members_is_finite_or_infinite_but_never_nan():
    assert not np.isnan(crowding([(1, 1)] * 4)).any()
    assert crowding([(1, 2)]).tolist() == [math.inf]


def test_survivors_are_whole_fronts_and_then_the_least_crowded():
    best = [Member((i,), (i, 4 - i)) for i in range(5)]
    crowded = Member((9,), (1.1, 3.1))
    later = [Member((7,), (0.5, 8.0)), Member((8,), (8.0, 0.5)), crowded]
    solver = NSGA2([0], [9], np.random.default_rng(0), population=7)
    solver.tell([*later, *best])
    kept = {m.genes for m in solver.members}
    # (1.1, 3.1), (0.5, 8) and (8, 0.5) are the second front: its ends have infinite distance.
    assert kept == {m.genes for m in best} | {(7,), (8,)}
    assert {m.genes for m in solver.front} == {m.genes for m in best}


def test_what_violates_less_survives():
    solver = NSGA2([0], [9], np.random.default_rng(0), population=2)
    solver.tell([Member((i,), (float(-i),), violation=float(i)) for i in (3, 1, 2)])
    assert [m.genes for m in solver.members] == [(1,), (2,)]
    assert solver.front == []


def test_sbx_spreads_as_its_distribution_says():
    rng, pairs = np.random.default_rng(0), 200_000
    first, second = np.full((pairs, 1), 0.4), np.full((pairs, 1), 0.6)
    far = np.array([1e6])
    a, b = sbx(first, second, -far, far, 3.0, rng)
    assert np.allclose(a + b, 1.0, atol=1e-9)
    crossed = np.abs(a - b)[:, 0] / 0.2
    crossed = crossed[np.abs(crossed - 1) > 1e-12]
    assert len(crossed) == pytest.approx(pairs / 2, rel=0.02)
    # P(beta <= 1) = 1/2, and P(beta <= x) = x^(eta+1) / 2 below 1, 1 - x^-(eta+1) / 2 above.
    for x in (0.5, 0.8):
        assert np.mean(crossed <= x) == pytest.approx(x**4 / 2, abs=0.005)
        assert np.mean(crossed <= 1 / x) == pytest.approx(1 - x**4 / 2, abs=0.005)


def test_mutation_moves_as_its_distribution_says():
    rng, low, high = np.random.default_rng(0), np.array([0.0]), np.array([1.0])
    moved = polynomial(np.full((200_000, 1), 0.5), low, high, 3.0, rng) - 0.5
    # In the middle of [0, 1]: P(delta <= -d) = u where 1 - d = (2u + (1 - 2u) / 2^4)^(1/4).
    for d in (0.05, 0.2):
        u = ((1 - d) ** 4 - 1 / 16) / (2 - 1 / 8)
        assert np.mean(moved <= -d) == pytest.approx(u, abs=0.005)
        assert np.mean(moved >= d) == pytest.approx(u, abs=0.005)


@settings(max_examples=50)
@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(0, 4)), min_size=1, max_size=5),
       st.integers(0, 2**32))  # fmt: skip
def test_genomes_are_new_and_within_their_bounds(bounds, seed):
    lower, upper = [low for low, _ in bounds], [low + width for low, width in bounds]
    solver = NSGA2(lower, upper, np.random.default_rng(seed), population=6, offspring=3)
    for _ in range(3):
        known = {m.genes for m in solver.members}
        asked = solver.ask()
        assert len(asked) == len(set(asked)) <= 6
        assert known.isdisjoint(asked)
        for genes in asked:
            assert all(a <= g <= b for a, g, b in zip(lower, genes, upper, strict=True))
        solver.tell([Member(g, (float(sum(g)), float(-g[0]))) for g in asked])


def test_an_exhausted_space_ends_the_search():
    solver = NSGA2([0, 0], [1, 1], np.random.default_rng(0), population=8)
    first = solver.ask()
    assert sorted(first) == [(0, 0), (0, 1), (1, 0), (1, 1)]
    solver.tell([Member(g, (float(sum(g)),)) for g in first])
    assert solver.ask() == []


def test_the_first_generation_holds_what_it_is_given():
    solver = NSGA2([0] * 3, [9] * 3, np.random.default_rng(0), population=5, start=[(1, 2, 3)])
    assert solver.ask()[0] == (1, 2, 3)


def test_outermost_integers_get_their_share_of_mutations():
    solver = NSGA2([0], [3], np.random.default_rng(0), mutation=1.0, mutation_eta=0.0)
    solver.tell([Member((1,), (0.0,)), Member((2,), (0.0,))])
    counts = np.bincount(solver._mate(40_000)[:, 0], minlength=4) / 40_000
    # With eta = 0 the mutation is nearly uniform on (-0.5, 3.5).
    assert counts == pytest.approx([0.25] * 4, abs=0.1)
    assert counts[0] == pytest.approx(counts[3], abs=0.01)


def test_bad_settings_are_refused():
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="bounds"):
        NSGA2([0, 3], [1, 2], rng)
    with pytest.raises(ValueError, match="at least 2"):
        NSGA2([0], [1], rng, population=1)


GRID = 100


def zdt1(x):
    g = 1 + 9 * np.mean(x[1:])
    return x[0], g * (1 - math.sqrt(x[0] / g))


def zdt2(x):
    g = 1 + 9 * np.mean(x[1:])
    return x[0], g * (1 - (x[0] / g) ** 2)


def zdt3(x):
    g, f = 1 + 9 * np.mean(x[1:]), x[0]
    return f, g * (1 - math.sqrt(f / g) - f / g * math.sin(10 * math.pi * f))


def volume(points, corner=(2.0, 2.0)):
    total, top = 0.0, corner[1]
    for x, y in sorted(points):
        if y < top and x < corner[0]:
            total += (corner[0] - x) * (top - y)
            top = y
    return total


def searched(function, genes=8, generations=80, population=40):
    solver = NSGA2(
        [0] * genes,
        [GRID] * genes,
        np.random.default_rng(1),
        population=population,
        crossover_eta=3.0,
        mutation_eta=3.0,
    )
    for _ in range(generations):
        solver.tell(
            [Member(g, tuple(map(float, function(np.array(g) / GRID)))) for g in solver.ask()]
        )
    return [m.objectives for m in solver.front]


@pytest.mark.parametrize(
    ("function", "curve", "best"),
    [
        # Volumes up to (2, 2): 1 + 2/3 + 2 and 1 + 1/3 + 2.
        (zdt1, lambda f: 1 - math.sqrt(f), 11 / 3),
        (zdt2, lambda f: 1 - f * f, 10 / 3),
    ],
)
def test_known_fronts_are_found(function, curve, best):
    front = searched(function)
    assert len(front) >= 20
    assert max(y - curve(x) for x, y in front) < 0.03
    assert best - 0.06 < volume(front) <= best


def test_a_front_in_pieces_is_found():
    # The five pieces of ZDT3's front (Deb's list of their ends).
    pieces = [(0, 0.0830), (0.1822, 0.2578), (0.4093, 0.4539), (0.6184, 0.6525), (0.8233, 0.8518)]
    front = searched(zdt3)
    for low, high in pieces:
        assert any(low - 0.01 <= x <= high + 0.01 for x, _ in front)
    for x, y in front:
        assert any(low - 0.02 <= x <= high + 0.02 for low, high in pieces)
        assert y - (1 - math.sqrt(x) - x * math.sin(10 * math.pi * x)) < 0.05


def test_a_binary_front_is_found():
    # ZDT5 with 30 + 5 + 5 bits: the front is f2 = 2 / f1 for f1 = 1 + ones of the first gene.
    def zdt5(bits):
        ones = [sum(bits[:30]), sum(bits[30:35]), sum(bits[35:])]
        g = sum(2 + u if u < 5 else 1 for u in ones[1:])
        return 1.0 + ones[0], g / (1 + ones[0])

    solver = NSGA2([0] * 40, [1] * 40, np.random.default_rng(0), population=40)
    for _ in range(60):
        solver.tell([Member(g, zdt5(g)) for g in solver.ask()])
    # The deceptive front has g = 2 * 2; the true one, g = 2, needs all ones in both small genes.
    assert min(x * y for x, y in (m.objectives for m in solver.front)) <= 4
    assert len({m.objectives for m in solver.front}) >= 15


def test_constraints_are_met_before_objectives_count():
    # Minimise x, and y; feasible only where x + y >= 60.
    solver = NSGA2([0, 0], [GRID] * 2, np.random.default_rng(0), population=30)
    for _ in range(40):
        asked = solver.ask()
        solver.tell(
            [Member((x, y), (float(x), float(y)), max(0.0, 60.0 - x - y)) for x, y in asked]
        )
    assert all(m.violation == 0 for m in solver.members)
    assert {x + y for x, y in (m.genes for m in solver.front)} <= {60, 61}
    assert len(solver.front) == 30


def test_same_seed_gives_the_same_search():
    assert searched(zdt1, 5, 10) == searched(zdt1, 5, 10)
