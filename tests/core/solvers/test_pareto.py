import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from frameworks.core.solvers.limits import InfeasibleBudget
from frameworks.core.solvers.milp import multiple_choice
from frameworks.core.solvers.pareto import Frontier

NUMBERS = st.integers(0, 12).map(float)
TABLES = st.lists(
    st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=4), min_size=1, max_size=5
).map(lambda rows: {f"layer{i}": dict(enumerate(row)) for i, row in enumerate(rows)})


def every(table, ties=()):
    for picks in itertools.product(*table.values()):
        options = dict(zip(table, picks, strict=True))
        if all(len({options[name] for name in group}) == 1 for group in ties):
            value = math.fsum(table[n][o][0] for n, o in options.items())
            yield math.fsum(table[n][o][1] for n, o in options.items()), value


def undominated(points):
    points = set(points)
    return sorted(
        p for p in points if not any(q != p and q[0] <= p[0] and q[1] <= p[1] for q in points)
    )


@given(TABLES)
def test_equals_brute_force(table):
    frontier = Frontier(table)
    assert list(zip(frontier.costs, frontier.values, strict=True)) == undominated(every(table))
    for index in range(len(frontier)):
        choice = frontier.choice(index)
        assert choice.cost == sum(table[n][o][1] for n, o in choice.options.items())
        assert choice.value == sum(table[n][o][0] for n, o in choice.options.items())


@given(TABLES, st.integers(0, 40))
def test_the_best_within_a_limit_is_that_of_the_integer_programme(table, limit):
    costed = {n: {o: (v, {"x": c}) for o, (v, c) in row.items()} for n, row in table.items()}
    try:
        exact = multiple_choice(costed, {"x": float(limit)})
    except InfeasibleBudget:
        with pytest.raises(InfeasibleBudget, match="smallest cost"):
            Frontier(table).within(limit)
        return
    found = Frontier(table).within(limit)
    assert found.cost <= limit
    assert found.value == sum(table[n][o][0] for n, o in exact.items())


@given(TABLES.filter(lambda table: len(table) > 1))
def test_ties_share_their_option(table):
    names = list(table)
    first, second = table[names[0]], table[names[1]]
    if not first.keys() & second.keys():
        return
    frontier = Frontier(table, ties=[names[:2]])
    points = undominated(every(table, [names[:2]]))
    assert list(zip(frontier.costs, frontier.values, strict=True)) == points
    options = frontier.choice(0).options
    assert options[names[0]] == options[names[1]]
    assert list(options) == names


@given(TABLES, st.randoms(use_true_random=False), st.data())
def test_in_a_chain_options_do_not_grow(table, random, data):
    names = list(table)
    chain = random.sample(names, data.draw(st.integers(1, len(names))))

    def kept(options):
        return all(options[a] >= options[b] for a, b in itertools.pairwise(chain))

    points = undominated(
        (sum(table[n][o][1] for n, o in c.items()), sum(table[n][o][0] for n, o in c.items()))
        for picks in itertools.product(*table.values())
        if kept(c := dict(zip(table, picks, strict=True)))
    )
    frontier = Frontier(table, descending=chain)
    assert list(zip(frontier.costs, frontier.values, strict=True)) == points
    for index in range(len(frontier)):
        choice = frontier.choice(index)
        assert list(choice.options) == names
        assert kept(choice.options)
        assert choice.cost == sum(table[n][o][1] for n, o in choice.options.items())
        assert choice.value == sum(table[n][o][0] for n, o in choice.options.items())


def test_a_chain_compares_by_rank_and_takes_ties_as_one():
    pairs = {(w, a): (-10.0 * w - a, float(w + a)) for w in (2, 4) for a in (2, 4)}
    table = {"a": pairs, "b": pairs, "c": pairs}
    frontier = Frontier(
        table, ties=[("a", "c")], descending=["b", "c", "a"], rank=lambda pair: pair[0]
    )
    for index in range(len(frontier)):
        options = frontier.choice(index).options
        assert options["a"] == options["c"]
        assert options["b"][0] >= options["a"][0]
    assert frontier.within(14).options == {"a": (2, 2), "b": (4, 2), "c": (2, 2)}


def test_an_order_that_cannot_be_kept_is_said():
    with pytest.raises(InfeasibleBudget, match="order"):
        Frontier({"a": {2: (1.0, 1.0)}, "b": {4: (1.0, 1.0)}}, descending=["a", "b"])


def test_a_worked_example():
    # Bits 2 and 4 for layers of 10 and 20 weights.
    table = {"a": {2: (5.0, 20.0), 4: (1.0, 40.0)}, "b": {2: (3.0, 40.0), 4: (0.5, 80.0)}}
    frontier = Frontier(table)
    points = [(frontier.choice(i).cost, frontier.choice(i).value) for i in range(len(frontier))]
    assert points == [(60, 8), (80, 4), (120, 1.5)]  # (100, 5.5) is worse than (80, 4)
    assert frontier.within(100).options == {"a": 4, "b": 2}
    assert frontier.within(60).options == {"a": 2, "b": 2}
    with pytest.raises(InfeasibleBudget, match="60"):
        frontier.within(59)


def test_a_thinned_frontier_keeps_its_ends_and_stays_close():
    rng = np.random.default_rng(0)
    table = {
        f"layer{i}": {b: (float(4.0**-b * s), float(b * n)) for b in range(2, 9)}
        for i, (s, n) in enumerate(zip(rng.random(14), rng.random(14), strict=True))
    }
    exact, thin = Frontier(table, most=100_000), Frontier(table, most=200)
    assert len(exact) > 800
    assert len(thin) <= 201
    assert thin.costs[0] == exact.costs[0]
    for share in (0.3, 0.5, 0.7):
        limit = exact.costs[0] + share * (exact.costs[-1] - exact.costs[0])
        close, best = thin.within(limit), exact.within(limit)
        assert close.cost <= limit
        assert close.cost == pytest.approx(sum(table[n][o][1] for n, o in close.options.items()))
        assert best.value <= close.value <= 1.3 * best.value


def test_points_are_spread_over_the_frontier():
    table = {f"layer{i}": {b: (2.0**-b, float(b)) for b in range(1, 9)} for i in range(4)}
    frontier = Frontier(table)
    chosen = frontier.spread(5)
    assert len(chosen) == 5
    assert (chosen[0].cost, chosen[-1].cost) == (frontier.costs[0], frontier.costs[-1])
    assert len(frontier.spread(1000)) == len(frontier)


def test_bad_tables_are_refused():
    with pytest.raises(ValueError, match="no option"):
        Frontier({"a": {}})
    with pytest.raises(ValueError, match="not finite"):
        Frontier({"a": {2: (math.nan, 1.0)}})
