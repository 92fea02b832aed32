import itertools
import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from frameworks.core.solvers import knapsack, milp
from frameworks.core.solvers.limits import InfeasibleBudget
from frameworks.core.solvers.milp import multiple_choice

METRICS = ("size", "bops", "latency")


def layers_like(items, bits, seed):
    """Pairs of bits as real networks price them: sensitivities and sizes over decades."""
    rng = np.random.default_rng(seed)
    table = {}
    for i in range(items):
        weight, act = 10 ** rng.uniform(-3, 1, 2)
        params = 10 ** rng.uniform(3.5, 6)
        macs = params * 10 ** rng.uniform(1, 3)
        table[f"l{i}"] = {
            (w, a): (
                float(weight * 4.0**-w * rng.uniform(0.8, 1.25) + act * 4.0**-a),
                {
                    "size": float(params * w / 8),
                    "bops": float(macs * w * a),
                    "latency": float(macs * max(w, a) * rng.uniform(1, 1.3)),
                },
            )
            for w, a in itertools.product(bits, repeat=2)
        }
    return table


def uniform(table, bits):
    return {m: math.fsum(o[bits, bits][1][m] for o in table.values()) for m in METRICS}


def value_of(table, chosen):
    return math.fsum(table[n][o][0] for n, o in chosen.items())


def within(table, chosen, limits):
    return all(
        math.fsum(table[n][o][1][m] for n, o in chosen.items()) <= limit * (1 + 1e-9)
        for m, limit in limits.items()
    )


def brute_force(table, limits):
    choices = (
        dict(zip(table, c, strict=True)) for c in itertools.product(*map(list, table.values()))
    )
    return min((value_of(table, c) for c in choices if within(table, c, limits)), default=None)


# Few distinct numbers: ties, zero and negative values, equal costs, limits met to the unit.
coarse = st.integers(-2, 3)
tables = st.lists(
    st.lists(st.tuples(coarse, coarse, st.integers(0, 3)), min_size=1, max_size=4),
    min_size=1,
    max_size=5,
)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(tables, st.integers(-6, 9), st.integers(0, 9), st.sampled_from([1e-12, 1.0, 1e9]))
def test_coarse_numbers_equal_brute_force(rows, first, second, scale):
    table = {
        f"l{i}": {
            o: (v * scale, {"a": float(a), "b": b * scale}) for o, (v, a, b) in enumerate(options)
        }
        for i, options in enumerate(rows)
    }
    limits = {"a": float(first), "b": second * scale}
    if limits["a"] < 0:
        limits["a"] *= 1 - 2e-9  # the tolerance of a negative limit is on its other side
    best = brute_force(table, limits)
    if best is None:
        with pytest.raises(InfeasibleBudget):
            multiple_choice(table, limits)
        return
    chosen = multiple_choice(table, limits)
    assert within(table, chosen, limits)
    assert value_of(table, chosen) == pytest.approx(best, rel=1e-9, abs=1e-12 * scale)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("like", [2, 4, 6])
def test_equals_the_integer_programme(seed, like):
    table = layers_like(14, (2, 4, 6, 8), seed)
    limits = uniform(table, like)
    chosen = multiple_choice(table, limits)
    assert within(table, chosen, limits)
    other = milp._Programme(list(table.values()), limits, ()).solve()
    expected = math.fsum(o[p][0] for o, p in zip(table.values(), other, strict=True))
    assert value_of(table, chosen) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("seed", range(2))
def test_is_no_worse_than_pulp_and_within_its_gap(seed):
    pulp = pytest.importorskip("pulp", reason="PuLP is an optional peer")
    table = layers_like(10, (2, 4, 8), seed)
    limits = uniform(table, 4)
    ours = value_of(table, multiple_choice(table, limits))
    programme = pulp.LpProblem("bits", pulp.LpMinimize)
    x = {
        (n, o): pulp.LpVariable(f"{n}_{o[0]}_{o[1]}", cat="Binary")
        for n, options in table.items()
        for o in options
    }
    programme += pulp.lpSum(1e4 * table[n][o][0] * x[n, o] for n, o in x)
    for n, options in table.items():
        programme += pulp.lpSum(x[n, o] for o in options) == 1
    for m in METRICS:
        programme += pulp.lpSum(table[n][o][1][m] / limits[m] * x[n, o] for n, o in x) <= 1
    programme.solve(pulp.PULP_CBC_CMD(msg=False, timeLimit=10))
    theirs = math.fsum(table[n][o][0] for (n, o), v in x.items() if v.value() > 0.5)
    assert ours <= theirs * (1 + 1e-9)
    assert ours == pytest.approx(theirs, rel=1e-3)


def test_giving_up_hands_the_rest_to_the_integer_programme(monkeypatch):
    table = layers_like(12, (2, 4, 8), 5)
    limits = uniform(table, 4)
    expected = value_of(table, multiple_choice(table, limits))
    calls = []
    original = milp._Programme.solve
    monkeypatch.setattr(
        milp._Programme, "solve", lambda self: calls.append(self.items) or original(self)
    )
    monkeypatch.setattr(knapsack, "BEAMS", (2, 3))
    assert value_of(table, multiple_choice(table, limits)) == pytest.approx(expected, rel=1e-12)
    assert len(calls) == 1
    assert sum(map(len, calls[0])) < sum(map(len, table.values()))  # fixing left less to it


def test_real_sizes_are_proven_without_the_integer_programme(monkeypatch):
    monkeypatch.setattr(milp, "_Programme", None)
    table = layers_like(53, range(2, 9), 0)
    limits = uniform(table, 4)
    chosen = multiple_choice(table, limits)
    assert within(table, chosen, limits)
    assert chosen == multiple_choice(table, limits)


def test_equal_options_go_to_the_earlier_one():
    cost = {"size": 1.0}
    table = {n: {8: (1.0, cost), 4: (1.0, cost), 2: (1.0, cost)} for n in "ab"}
    assert multiple_choice(table, {"size": 2}) == {"a": 8, "b": 8}


def test_budgets_that_exclude_each_other_are_told():
    table = {n: {2: (1.0, {"x": 1.0, "y": 3.0}), 4: (0.0, {"x": 3.0, "y": 1.0})} for n in "abcdef"}
    assert len(multiple_choice(table, {"x": 12, "y": 12})) == 6
    with pytest.raises(InfeasibleBudget, match="together"):
        multiple_choice(table, {"x": 11.9, "y": 11.9})


def test_the_solver_alone_imports_no_optimizer():
    code = (
        "import sys; from frameworks.core.solvers.milp import multiple_choice as m;"
        "t = {n: {b: (1 / b, {'s': float(b)}) for b in (2, 4, 8)} for n in 'abc'};"
        "m(t, {'s': 12}); print('scipy.optimize' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
