"""The exact choice of bits at three budgets at once, beside SciPy's and PuLP's programmes."""

import math

import numpy as np
import pytest

from frameworks import multiple_choice

METRICS = ("size", "bops", "latency")
BITS = range(2, 9)


def instance(layers, seed=0):
    """Sensitivities and costs over the decades that real networks span; limits of uniform 4 bit."""
    rng = np.random.default_rng(seed)
    table = {}
    for i in range(layers):
        weight, act = 10 ** rng.uniform(-3, 1, 2)
        params = 10 ** rng.uniform(3.5, 6)
        macs = params * 10 ** rng.uniform(1, 3)
        table[f"l{i}"] = {
            (w, a): (
                float(weight * 4.0**-w + act * 4.0**-a),
                {
                    "size": float(params * w / 8),
                    "bops": float(macs * w * a),
                    "latency": float(macs * max(w, a) * rng.uniform(1, 1.1)),
                },
            )
            for w in BITS
            for a in BITS
        }
    return table, {m: math.fsum(o[4, 4][1][m] for o in table.values()) for m in METRICS}


def by_scipy(table, limits):
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import csr_matrix

    values = np.array([v for o in table.values() for v, _ in o.values()])
    costs = np.array(
        [[c[m] / limits[m] for o in table.values() for _, c in o.values()] for m in METRICS]
    )
    owner = np.repeat(np.arange(len(table)), len(BITS) ** 2)
    one = csr_matrix((np.ones(len(owner)), (owner, np.arange(len(owner)))))
    found = milp(
        values, constraints=[LinearConstraint(one, 1, 1), LinearConstraint(costs, -np.inf, 1)],
        integrality=np.ones(len(owner)), bounds=Bounds(0, 1), options={"time_limit": 20},
    )  # fmt: skip
    return float(values[found.x > 0.5].sum())


def by_pulp(table, limits):
    import pulp

    programme = pulp.LpProblem("bits", pulp.LpMinimize)
    x = {
        (n, o): pulp.LpVariable(f"{n}_{o[0]}_{o[1]}", cat="Binary")
        for n, options in table.items()
        for o in options
    }
    programme += pulp.lpSum(table[n][o][0] * x[n, o] for n, o in x)
    for n, options in table.items():
        programme += pulp.lpSum(x[n, o] for o in options) == 1
    for m in METRICS:
        programme += pulp.lpSum(table[n][o][1][m] / limits[m] * x[n, o] for n, o in x) <= 1
    programme.solve(pulp.PULP_CBC_CMD(msg=False, timeLimit=20))


@pytest.mark.parametrize(("layers", "goal"), [(53, "under 0.1 s"), (200, "under 1 s")])
@pytest.mark.parametrize("peer", ["scipy", "pulp"])
def test_exact_choice(compare, layers, goal, peer):
    pytest.importorskip(peer, reason=f"{peer} is an optional peer")
    table, limits = instance(layers)
    other = {"scipy": by_scipy, "pulp": by_pulp}[peer]
    note = f"{layers} layers x 49 pairs, three budgets, proven; {peer}: default gap, 20 s at most"
    compare(
        lambda: multiple_choice(table, limits),
        lambda: other(table, limits),
        rounds=3,
        title=f"exact choice of bits, {layers} layers, over {peer}",
        goal=goal,
        note=note,
    )
