import json
import math
from pathlib import Path

import pytest

from frameworks import BudgetSpec, InfeasibleBudget, Policy, Space, describe, targets
from frameworks.core.policy import LayerBits
from frameworks.hardware.table import Table

nn = pytest.importorskip("torch").nn

LAYERS = describe(nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 3)), (1, 4, 4))
NAMES = [layer.name for layer in LAYERS]
COSTS = {("0", 8, 8): 4.0, ("0", 4, 4): 1.5, ("2", 8, 8): 2.0, ("2", 4, 4): 0.5, ("2", 4, 8): 1.0}


def write(path, text):
    path.write_text(text if isinstance(text, str) else json.dumps(text))
    return str(path)


def rows(costs=COSTS):
    return [{"layer": n, "w_bits": w, "a_bits": a, "cost": c} for (n, w, a), c in costs.items()]


def as_csv(costs=COSTS, columns="layer,w_bits,a_bits,cost"):
    lines = [f"{n},{w},{a},{c}" for (n, w, a), c in costs.items()]
    return "\n".join([columns, *lines])


@pytest.fixture(params=["csv", "rows"])
def table(request, tmp_path):
    if request.param == "csv":
        return Table(write(tmp_path / "t.csv", as_csv()), unit="ms")
    return Table(write(tmp_path / "t.json", {"unit": "ms", "rows": rows(), "machine": "x"}))


def test_costs_are_sums_of_entries(table):
    table.prepare(LAYERS)
    assert table.cost(LAYERS, Policy({"0": (8, 8), "2": (4, 8)})) == {"latency": 5.0}
    assert table.cost(LAYERS, Policy.uniform(LAYERS, 4, 4)) == {"latency": 2.0}
    assert table.metrics == {"latency": "ms"}
    assert table.metric == "latency"
    assert (table.name, table.kind, table.per_channel, table.separable) == (
        "table", "table", False, True
    )  # fmt: skip
    assert targets.get("table") is Table


def test_supports_exactly_what_the_file_lists(table):
    first, last = LAYERS
    assert table.supports(first, 8, 8)
    assert table.supports(last, 4, 8)
    assert not table.supports(first, 4, 8)
    assert table.supports(first, 0, 8)
    assert table.layer_cost(first, LayerBits(0, 8)) == {"latency": 0.0}


def test_budgets(table):
    space = Space.build(LAYERS, [4, 8], [4, 8])
    assert BudgetSpec(like=4).resolve(table, space).limit == 2
    assert BudgetSpec(ratio=0.5).resolve(table, space).limit == 3
    assert BudgetSpec(limit=2.5).resolve(table, space).unit == "ms"
    with pytest.raises(InfeasibleBudget, match="smallest cost of this space on table is 2"):
        BudgetSpec(limit=1).resolve(table, space)
    with pytest.raises(ValueError, match=r"table runs this model uniformly at \[4, 8\]"):
        BudgetSpec(like=3).resolve(table, space)


def test_names_of_metric_and_unit(tmp_path):
    path = write(tmp_path / "t.json", {"metric": "energy", "unit": "uJ", "rows": rows()})
    assert Table(path).metrics == {"energy": "uJ"}
    assert Table(path, metric="e", unit="J").metrics == {"e": "J"}
    assert Table(write(tmp_path / "t.csv", as_csv())).metrics == {"latency": ""}
    with pytest.raises(ValueError, match="table has no 'latency'"):
        BudgetSpec(like=4, metric="latency").resolve(Table(path), Space.build(LAYERS, [4], [4]))


def test_layers_in_execution_order(tmp_path):
    cube = [[[100 * i + 10 * w + a for a in range(8)] for w in range(8)] for i in range(2)]
    table = Table(write(tmp_path / "t.json", {"latency_cycles": cube}))
    table.prepare(LAYERS)
    assert table.metrics == {"latency": "cycles"}
    assert table.cost(LAYERS, Policy({"0": (2, 5), "2": (8, 1)})) == {"latency": 14 + 170}
    three = Table(write(tmp_path / "u.json", {"latency_cycles": [*cube, cube[0]]}))
    with pytest.raises(ValueError, match="3 layers in execution order, the model has 2"):
        three.prepare(LAYERS)
    one = Table(write(tmp_path / "v.json", {"latency_cycles": cube[:1]}))
    with pytest.raises(ValueError, match="no entry for 1 of the model's 2 layers: 2"):
        one.prepare(LAYERS)


def test_a_list_for_each_bit_width(tmp_path):
    data = {"layers": NAMES, "latency_int4_ms": [1.5, 0.5], "latency_int8_ms": [4, 2]}
    table = Table(write(tmp_path / "t.json", data))
    assert table.metrics == {"latency": "ms"}
    assert table.cost(LAYERS, Policy({"0": (8, 8), "2": (4, 4)})) == {"latency": 4.5}
    data["latency_int8_ms"] = [4]
    with pytest.raises(ValueError, match=r"latency_int8_ms: 1 costs for 2 layers"):
        Table(write(tmp_path / "t.json", data))


def test_missing_layers(tmp_path):
    only = {key: cost for key, cost in COSTS.items() if key[0] == "2"}
    table = Table(write(tmp_path / "t.csv", as_csv(only)))
    with pytest.raises(ValueError, match=r"t.csv: no entry for 1 of the model's 2 layers: 0"):
        table.prepare(LAYERS)
    with pytest.raises(ValueError, match="no entry for layer 0"):
        table.cost(LAYERS, Policy.uniform(LAYERS, 8, 8))


def test_per_channel_bits_have_no_price(table):
    with pytest.raises(ValueError, match="per output channel"):
        table.layer_cost(LAYERS[0], LayerBits((4, 8), 8))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0,4,8,-1", r"t.csv line 7: cost = '-1'"),
        ("0,4,8,nan", r"t.csv line 7: cost = 'nan'"),
        ("0,4,8,inf", r"t.csv line 7: cost = 'inf'"),
        ("0,4,8,fast", r"t.csv line 7: cost = 'fast'"),
        ("0,9,8,1", r"t.csv line 7: w_bits = '9' is none of"),
        ("0,4,x,1", r"t.csv line 7: a_bits = 'x' is none of"),
        ("0,4.5,8,1", r"t.csv line 7: w_bits = '4.5'"),
        ("0,4,8", r"t.csv line 7: no value for cost"),
        ("0,,8,1", r"t.csv line 7: no value for w_bits"),
        ("0,4,4,1", r"t.csv line 7: layer 0 has w_bits, a_bits \(4, 4\) twice"),
    ],
)
def test_bad_csv_lines(tmp_path, line, message):
    with pytest.raises(ValueError, match=message):
        Table(write(tmp_path / "t.csv", as_csv() + "\n" + line))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cost": -1}, r"t.json row 1: cost = -1"),
        ({"cost": math.nan}, r"t.json row 1: cost = nan"),
        ({"cost": True}, r"t.json row 1: cost = True"),
        ({"cost": None}, r"t.json row 1: no value for cost"),
        ({"w_bits": 12}, r"t.json row 1: w_bits = 12"),
        ({"a_bits": [8]}, r"t.json row 1: a_bits = \[8\]"),
    ],
)
def test_bad_json_rows(tmp_path, change, message):
    data = rows()
    data[1] |= change
    with pytest.raises(ValueError, match=message):
        Table(write(tmp_path / "t.json", {"rows": data}))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("t.csv", "layer,w_bits,cost\n0,4,1", r"missing columns \['a_bits'\]"),
        ("t.csv", "layer,w_bits,a_bits,cost\n", "no entries"),
        ("t.csv", "", "missing columns"),
        ("t.json", "{", "not a readable table"),
        ("t.json", "[1]", "expected a JSON object, found list"),
        ("t.json", '{"rows": [3]}', "row 0: expected an object"),
        ("t.json", '{"rows": []}', "no entries"),
        ("t.json", '{"model": "x"}', 'give "rows"'),
    ],
)
def test_bad_files(tmp_path, name, text, message):
    with pytest.raises(ValueError, match=message):
        Table(write(tmp_path / name, text))


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    for path in (tmp_path / "none.csv", tmp_path):
        with pytest.raises(ValueError, match=f"there is no table file {path}"):
            Table(str(path))
    with pytest.raises(ValueError, match=str(Path.cwd() / "none.csv")):
        Table("none.csv")


def test_binary_files_are_refused(tmp_path):
    (tmp_path / "t.csv").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(ValueError, match="not a readable table"):
        Table(str(tmp_path / "t.csv"))
