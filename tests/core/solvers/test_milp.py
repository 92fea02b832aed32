import ctypes
import itertools
import math

import numpy as np
import pytest
import scipy.optimize
from hypothesis import given, settings
from hypothesis import strategies as st

from frameworks.core.solvers.limits import InfeasibleBudget
from frameworks.core.solvers.milp import multiple_choice


def brute_force(table, limits, ties=(), descending=()):
    """The least value over all choices, and None if there is none."""
    best = None
    names = list(table)
    for combination in itertools.product(*(table[name] for name in names)):
        chosen = dict(zip(names, combination, strict=True))
        if any(len({chosen[n] for n in tie}) > 1 for tie in ties):
            continue
        if any(chosen[a] < chosen[b] for a, b in itertools.pairwise(descending)):
            continue
        entries = [table[n][o] for n, o in chosen.items()]
        if any(math.fsum(c[m] for _, c in entries) > limits[m] * (1 + 1e-9) for m in limits):
            continue
        value = math.fsum(v for v, _ in entries)
        best = value if best is None else min(best, value)
    return best


def value_of(table, chosen):
    return math.fsum(table[name][option][0] for name, option in chosen.items())


def random_table(rng, items, bits, metrics, decades):
    """Sensitivities over many decades, and costs that need not grow with the bits."""
    table = {}
    for i in range(items):
        scale = 10 ** rng.uniform(-decades, decades)
        sizes = {m: 10 ** rng.uniform(3, 6) for m in metrics}
        table[f"l{i}"] = {
            b: (
                float(scale * 4.0**-b * rng.uniform(0.5, 2)),
                {m: float(size * b * rng.uniform(0.5, 2)) for m, size in sizes.items()},
            )
            for b in bits
        }
    return table


problems = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 2**32),
        "items": st.integers(1, 6),
        "bits": st.sets(st.integers(1, 8), min_size=1, max_size=4).map(sorted),
        "metrics": st.integers(1, 3).map(lambda n: ["size", "bops", "latency"][:n]),
        "decades": st.sampled_from([0, 2, 5]),
        "share": st.floats(0, 1),
        "ties": st.lists(st.lists(st.integers(0, 5), min_size=2, max_size=3), max_size=2),
        "chain": st.permutations(range(6)),
        "ordered": st.booleans(),
    }
)


@settings(max_examples=120, deadline=None, derandomize=True)
@given(problems)
def test_equals_brute_force(p):
    rng = np.random.default_rng(p["seed"])
    table = random_table(rng, p["items"], p["bits"], p["metrics"], p["decades"])
    limits = {}
    for m in p["metrics"]:
        low = math.fsum(min(c[m] for _, c in o.values()) for o in table.values())
        high = math.fsum(max(c[m] for _, c in o.values()) for o in table.values())
        limits[m] = low + p["share"] * (high - low)
    ties = [[f"l{i % p['items']}" for i in tie] for tie in p["ties"]]
    chain = [f"l{i}" for i in p["chain"] if i < p["items"]] if p["ordered"] else []
    best = brute_force(table, limits, ties, chain)
    if best is None:
        with pytest.raises(InfeasibleBudget):
            multiple_choice(table, limits, ties=ties, descending=chain)
        return
    chosen = multiple_choice(table, limits, ties=ties, descending=chain)
    assert list(chosen) == list(table)
    only = {n: {o: table[n][o]} for n, o in chosen.items()}
    assert brute_force(only, limits, ties, chain) is not None
    assert value_of(table, chosen) == pytest.approx(best, rel=1e-9)


def test_hand_worked():
    # 12 units: raising b (gain 5 for 4) and a (gain 3 for 2) fits, c (gain 6 for 8) does not.
    table = {
        "a": {4: (3.0, {"size": 2.0}), 8: (0.0, {"size": 4.0})},
        "b": {4: (5.0, {"size": 2.0}), 8: (0.0, {"size": 6.0})},
        "c": {4: (6.0, {"size": 2.0}), 8: (0.0, {"size": 10.0})},
    }
    assert multiple_choice(table, {"size": 12}) == {"a": 8, "b": 8, "c": 4}
    assert multiple_choice(table, {"size": 14}) == {"a": 8, "b": 8, "c": 4}
    assert multiple_choice(table, {"size": 16}) == {"a": 8, "b": 4, "c": 8}
    assert multiple_choice(table, {"size": 20}) == {"a": 8, "b": 8, "c": 8}
    assert multiple_choice(table, {"size": 6}) == {"a": 4, "b": 4, "c": 4}


def test_a_second_budget_changes_the_answer():
    table = {
        "a": {4: (3.0, {"size": 1.0, "bops": 1.0}), 8: (0.0, {"size": 2.0, "bops": 9.0})},
        "b": {4: (1.0, {"size": 1.0, "bops": 1.0}), 8: (0.0, {"size": 2.0, "bops": 2.0})},
    }
    assert multiple_choice(table, {"size": 3}) == {"a": 8, "b": 4}
    assert multiple_choice(table, {"size": 3, "bops": 5}) == {"a": 4, "b": 8}


def test_pairs_as_options():
    table = {"a": {(w, a): (1 / w + 1 / a, {"bops": float(w * a)}) for w in (2, 4) for a in (2, 4)}}
    assert multiple_choice(table, {"bops": 15}) == {"a": (2, 4)}  # the earlier of two equals
    assert multiple_choice(table, {"bops": 16}) == {"a": (4, 4)}


def test_ties_that_overlap_join_and_use_common_options():
    cost = {"size": 1.0}
    table = {
        "a": {2: (9.0, cost), 4: (1.0, cost)},
        "b": {2: (0.0, cost), 4: (0.0, cost)},
        "c": {2: (0.0, cost), 4: (1.0, cost), 8: (-99.0, cost)},
        "d": {2: (0.0, cost), 8: (1.0, cost)},
    }
    chosen = multiple_choice(table, {"size": 9}, ties=[["a", "b"], ["c", "b"]])
    assert chosen == {"a": 4, "b": 4, "c": 4, "d": 2}
    with pytest.raises(ValueError, match="a and d: no option in common"):
        multiple_choice({"a": {4: (0.0, cost)}, "d": {8: (0.0, cost)}}, {}, ties=[["a", "d"]])
    with pytest.raises(ValueError, match=r"tied items \['x'\]"):
        multiple_choice(table, {}, ties=[["a", "x"]])


def test_a_limit_that_is_met_exactly_counts_as_met():
    # 0.1 three times is 0.30000000000000004 in floating point.
    table = {n: {2: (1.0, {"ms": 0.05}), 4: (0.0, {"ms": 0.1})} for n in "abc"}
    assert multiple_choice(table, {"ms": 0.3}) == dict.fromkeys("abc", 4)
    assert multiple_choice(table, {"ms": 0.15}) == dict.fromkeys("abc", 2)


def test_a_limit_missed_by_little_is_not_met():
    # HiGHS alone would take the row as satisfied (violated by 1e-7 of the limit).
    table = {
        "a": {2: (1.0, {"bops": 1e9}), 4: (0.0, {"bops": 2e9})},
        "b": {2: (3.0, {"bops": 1e9}), 4: (2.5, {"bops": 2e9})},
    }
    assert multiple_choice(table, {"bops": 4e9}) == {"a": 4, "b": 4}
    assert multiple_choice(table, {"bops": 4e9 * (1 - 1e-7)}) == {"a": 4, "b": 2}


def test_infeasible_says_what_the_smallest_cost_is():
    table = {n: {2: (1.0, {"size": 2.0}), 4: (0.0, {"size": 4.0})} for n in "ab"}
    with pytest.raises(InfeasibleBudget, match="at most 3; the smallest is 4"):
        multiple_choice(table, {"size": 3})
    table = {
        "a": {2: (1.0, {"x": 2.0, "y": 4.0}), 4: (0.0, {"x": 4.0, "y": 2.0})},
    }
    with pytest.raises(InfeasibleBudget, match="together"):
        multiple_choice(table, {"x": 3, "y": 3})


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_bad_numbers_and_empty_items_are_refused(bad):
    with pytest.raises(ValueError, match="not finite"):
        multiple_choice({"a": {2: (bad, {"size": 1.0})}}, {"size": 9})
    with pytest.raises(ValueError, match="not finite"):
        multiple_choice({"a": {2: (0.0, {"size": bad})}}, {"size": 9})
    with pytest.raises(ValueError, match="a: no option"):
        multiple_choice({"a": {}}, {"size": 9})


def test_no_limits_takes_the_least_value():
    assert multiple_choice({"a": {2: (1.0, {}), 4: (0.5, {})}}, {}) == {"a": 4}


def test_deterministic_and_exact_at_the_size_of_a_real_network():
    table = random_table(np.random.default_rng(0), 53, range(2, 9), ["size", "bops"], 3)
    limits = {
        m: 2 * sum(min(c[m] for _, c in o.values()) for o in table.values())
        for m in ("size", "bops")
    }
    first = multiple_choice(table, limits)
    assert first == multiple_choice(table, limits)
    for item in table:  # no single change improves it within the limits
        for option in table[item]:
            other = {**first, item: option}
            costs = {m: math.fsum(table[n][o][1][m] for n, o in other.items()) for m in limits}
            if all(costs[m] <= limits[m] for m in limits):
                assert value_of(table, other) >= value_of(table, first)


def test_stdout_stays_clean_even_from_c(capfd, monkeypatch):
    libc = ctypes.CDLL(None)
    original = scipy.optimize.milp

    def noisy(*args, **kwargs):
        libc.puts(b"stray line")
        return original(*args, **kwargs)

    monkeypatch.setattr(scipy.optimize, "milp", noisy)
    print("before")
    table = {"a": {2: (1.0, {}), 4: (2.0, {})}, "b": {2: (0.0, {})}}
    assert multiple_choice(table, {}, descending=["a", "b"]) == {"a": 2, "b": 2}
    print("after")
    libc.fflush(None)
    out, err = capfd.readouterr()
    assert out.splitlines() == ["before", "after"]
    assert "stray line" in err
