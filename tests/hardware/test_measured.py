"""The targets of measured tables: what they read, and what they refuse."""

import json
import math
from itertools import product

import pytest
import torch
from torch import nn

from frameworks import BudgetSpec, Policy, Space, describe, registry, shape_of, targets
from frameworks.core.budget import cheapest
from frameworks.core.policy import LayerBits
from frameworks.core.search.steering import steer
from frameworks.hardware.table import Table
from frameworks.heuristic.hawq_v3.framework import sensitivity
from frameworks.testing import toy


def network(channels=2, kernel=3, side=4):
    flat = channels * (side - kernel + 1) ** 2
    return nn.Sequential(nn.Conv2d(1, channels, kernel), nn.Flatten(), nn.Linear(flat, 3))


LAYERS = describe(network(), (1, 4, 4))
COSTS = {32: 3.0, 8: 1.0, 4: 1.0, 2: 1.0}


@pytest.fixture(params=["cpu", "gpu"])
def device(request):
    return request.param


@pytest.fixture
def data(measured_table):
    return measured_table.make(LAYERS, COSTS)


@pytest.fixture
def cpu(measured_table):
    return lambda data: targets.get("cpu")(path=measured_table.save(data))


def test_costs_are_sums_of_entries_with_the_size_beside(device, measured_table):
    path = measured_table.save(measured_table.make(LAYERS, COSTS, device))
    target = targets.get(device)(path=path)
    target.prepare(LAYERS)
    # Layer 0 (18 weights) costs 3 in float, layer 2 (24 weights) twice 1 in 4 bit.
    costs = target.cost(LAYERS, Policy({"0": (32, 32), "2": (4, 4)}))
    assert costs == {"latency": 3 + 2, "size": 18 * 4 + 24 / 2}
    assert target.cost(LAYERS, Policy({"0": (0, 8), "2": (8, 8)})) == {"latency": 2, "size": 24}
    assert (target.name, target.kind, target.separable) == (device, "measured", True)
    assert (target.monotone, target.per_channel) == (False, False)
    assert target.metrics == {"latency": "ms", "size": "bytes"}
    assert target.supports(LAYERS[0], 32, 32)
    assert not target.supports(LAYERS[0], 8, 32)
    assert target.supports(LAYERS[0], 0, 8)
    with pytest.raises(ValueError, match="at w_bits=3, a_bits=3; it has"):
        target.layer_cost(LAYERS[0], LayerBits(3, 3))
    with pytest.raises(ValueError, match="per output channel"):
        target.layer_cost(LAYERS[0], LayerBits((4, 8), 8))


def test_the_table_target_reads_the_same_file(data, measured_table):
    table = Table(measured_table.save(data))
    table.prepare(LAYERS)
    assert table.metrics == {"latency": "ms"}
    assert table.cost(LAYERS, Policy.uniform(LAYERS, 8, 8)) == {"latency": 3}


def test_layers_of_another_model_are_found_by_their_shape(data, cpu):
    class Other(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.head = nn.Conv2d(1, 2, 3), nn.Linear(8, 3)

        def forward(self, x):
            return self.head(self.stem(x).flatten(1))

    layers = describe(Other(), (1, 4, 4))
    assert [layer.name for layer in layers] == ["stem", "head"]
    target = cpu(data)
    target.prepare(layers)
    assert target.cost(layers, Policy.uniform(layers, 32, 32))["latency"] == 3 + 6


def test_of_equal_shapes_the_layer_of_the_name_counts(measured_table, cpu):
    model = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1), nn.Conv2d(1, 1, 3, padding=1))
    layers = describe(model, (1, 4, 4))
    target = cpu(measured_table.make(layers, {8: 1.0}))
    assert target.cost(layers, Policy.uniform(layers, 8, 8))["latency"] == 1 + 2


@pytest.mark.parametrize(
    ("other", "side", "message"),
    [
        (network(channels=4), 4, r"layer 0 was measured with out_channels = 2 and has .* = 4"),
        (network(kernel=2), 4, r"layer 0 was measured with kernel = \[3, 3\] and has .*\[2, 2\]"),
        (network(side=5), 5, r"layer 0 was measured with in_size = \[4, 4\] and has .*\[5, 5\]"),
        (
            nn.Sequential(nn.Conv2d(1, 2, 3, stride=2), nn.Flatten(), nn.Linear(2, 3)), 4,
            r"layer 0 was measured with stride = \[1, 1\] and has stride = \[2, 2\]",
        ),
        (
            nn.Sequential(nn.Flatten(), nn.Linear(16, 3)), 4,
            r"neither a layer 1 nor one of its shape \(kind=linear, in_channels=16",
        ),
    ],
)  # fmt: skip
def test_a_table_of_another_model_is_refused_with_the_difference(data, cpu, other, side, message):
    with pytest.raises(ValueError, match=message) as caught:
        cpu(data).prepare(describe(other, (1, side, side)))
    assert "measured for toy on toy" in str(caught.value)
    assert "'juxtabit lut model=" in str(caught.value)


def test_groups_are_part_of_the_shape(measured_table, cpu):
    models = (nn.Sequential(nn.Conv2d(4, 4, 3, groups=groups)) for groups in (1, 4))
    plain, grouped = (describe(model, (4, 8, 8)) for model in models)
    with pytest.raises(ValueError, match="measured with groups = 1 and has groups = 4"):
        cpu(measured_table.make(plain, COSTS)).prepare(grouped)


def test_without_a_file_the_message_says_how_to_make_one(device, tmp_path):
    for path in ("", str(tmp_path / "none.json"), str(tmp_path)):
        with pytest.raises(ValueError, match=f"hardware.path.*juxtabit lut.*device={device}"):
            targets.get(device)(path=path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "table"}, "no measured table .*hardware=table reads"),
        ({"schema": 2}, "has schema 2, and this version reads 1"),
        ({"device": "gpu"}, "measured with device=gpu, not device=cpu"),
        ({"device": None}, "measured with device=None"),
        ({"metric": "energy"}, "holds 'energy' in 'ms', not latency in ms"),
        ({"unit": "us"}, "holds 'latency' in 'us'"),
        ({"layers": None}, '"layers" does not describe: 0, 2'),
        ({"layers": [3]}, r"layers\[0\]: expected an object, found 3"),
        ({"layers": [{"layer": "0", "kind": "conv"}]}, r"layers\[0\]: no value for in_channels"),
        ({"rows": []}, "the table has no entries"),
    ],
)
def test_a_wrong_head_is_refused(data, cpu, change, message):
    with pytest.raises(ValueError, match=message):
        cpu(data | change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cost": -0.1}, "row 1: cost = -0.1 is not a number of at least 0"),
        ({"cost": math.nan}, "row 1: cost = nan is not"),
        ({"cost": math.inf}, "row 1: cost = inf is not"),
        ({"cost": "fast"}, "row 1: cost = 'fast' is not"),
        ({"w_bits": 12}, "row 1: w_bits = 12 is none of"),
        ({"a_bits": None}, "row 1: no value for a_bits"),
        ({"layer": "conv9"}, '"layers" does not describe: conv9'),
        ({"w_bits": 32, "a_bits": 32}, r"row 1: layer 0 has w_bits, a_bits \(32, 32\) twice"),
    ],
)
def test_a_wrong_row_is_refused(data, cpu, change, message):
    data["rows"][1] |= change
    with pytest.raises(ValueError, match=message):
        cpu(data)


def test_a_layer_without_rows_is_missing(data, cpu):
    data["rows"] = [row for row in data["rows"] if row["layer"] != "2"]
    with pytest.raises(ValueError, match="layers without a row: 2"):
        cpu(data)


def test_csv_and_damaged_files_are_refused(tmp_path):
    (tmp_path / "t.csv").write_text("layer,w_bits,a_bits,cost\n0,8,8,1\n")
    with pytest.raises(ValueError, match="no measured table"):
        targets.get("cpu")(path=str(tmp_path / "t.csv"))
    (tmp_path / "t.json").write_text('{"schema": 1, "rows": [')
    with pytest.raises(ValueError, match="not a readable table"):
        targets.get("cpu")(path=str(tmp_path / "t.json"))


def test_shapes_are_plain_data_and_tell_layers_apart():
    shapes = [shape_of(layer) for layer in describe(toy.network(toy.ToyConvNet), toy.SHAPE)]
    assert json.loads(json.dumps(shapes)) == shapes
    # The residual block's two convolutions are alike, and nothing else is.
    assert len({json.dumps(shape) for shape in shapes}) == len(shapes) - 1


# --- searches on targets with float among the candidates, and where 8 bit is slower --------------

MODEL = toy.ToyConvNet
REDUCED = {
    "random": {"evaluations": 8},
    "greedy": {"evaluations": 40},
    "haq": {"episodes": 4, "warmup": 2},
    "hawq_v3": {"images": 32, "batch": 32, "probes": 2},
    "zeroq": {"images": 16, "steps": 5},
    "mohaq": {"population": 6, "offspring": 4, "generations": 2, "subsets": 2, "beacons": 0},
    "bsq": {"epochs": 2, "interval": 1, "step": 2, "images": 64, "batch": 32, "alpha": 8.0},
}


def toy_target(measured_table, cpu, slow=2):
    """A table in which 8 and fewer bits are faster than float but on one layer."""
    data = measured_table.make(describe(toy.network(MODEL), toy.SHAPE), COSTS)
    name = data["layers"][slow]["layer"]
    for row in data["rows"]:
        if row["layer"] == name and row["w_bits"] < 32:
            row["cost"] *= 9
    return cpu(data)


def toy_problem(target, ratio, metric="latency", name="random"):
    needs = registry.get(name).card.needs & set(toy.DATA_NEEDS)
    budget = BudgetSpec(ratio=ratio, metric=metric)
    bits = (2, 4, 8, 32)
    return toy.make_problem(target, budget=budget, bits=bits, paired=True, needs=needs)


@pytest.mark.parametrize("metric", ["latency", "size"])
@pytest.mark.parametrize("name", ["uniform", *REDUCED])
def test_frameworks_search_between_float_and_integers(name, metric, measured_table, cpu):
    problem = toy_problem(toy_target(measured_table, cpu), 1.2, metric, name)
    solution = steer(registry.get(name)(**REDUCED.get(name, {})), problem, 6)
    problem.space.validate(solution.policy)
    assert problem.within(solution.policy)
    target = problem.target
    judge = toy.make_problem().at(space=problem.space, target=target, budget=problem.budget)
    assert judge.evaluate(solution.policy).accuracy > 50  # chance is 25


@pytest.mark.parametrize("name", ["random", "greedy", "haq", "hawq_v3", "zeroq", "mohaq"])
def test_a_tight_budget_needs_float_where_integers_are_slow(name, measured_table, cpu):
    problem = toy_problem(toy_target(measured_table, cpu), 0.9, name=name)
    # 8 bit throughout costs 1 + 2 + 27 + 4 + 5 + 6 = 45; with the third layer in float it is 27.
    assert problem.budget.limit == pytest.approx(0.9 * 45)
    assert problem.cost(problem.cheapest())["latency"] == 27
    solution = registry.get(name)(**REDUCED[name]).search(problem)
    assert problem.within(solution.policy)
    assert solution.policy["blocks.0.conv2"] == LayerBits(32, 32)


def test_the_exact_solver_finds_what_brute_force_does(measured_table, cpu):
    method = registry.get("hawq_v3")(**{**REDUCED["hawq_v3"], "bits": []})
    for ratio in (0.7, 0.9, 1.1):
        problem = toy_problem(toy_target(measured_table, cpu), ratio, name="hawq_v3")
        values, space = method.score(problem).values, problem.space
        assert all(errors["32"] == 0 for errors in values["weight_error"].values())
        policies = map(space.decode, product((2, 4, 8, 32), repeat=len(space.choices)))
        least = min(
            sum(sensitivity(values, name, bits.weight, bits.act) for name, bits in p.items())
            for p in policies
            if problem.within(p)
        )
        assert method.search(problem).notes["omega"] == pytest.approx(least)


def test_float_candidates_leave_the_network_as_it_is(measured_table, cpu):
    problem = toy_problem(toy_target(measured_table, cpu), 3)
    free = problem.space.free_layers
    policy = Policy.uniform(problem.layers, 32, 32)
    x = toy.split("valid", 128).images(16)
    with torch.inference_mode():
        outputs = problem.quantized(policy)(x), problem.float_model()(x)
    assert torch.allclose(*outputs, rtol=1e-5, atol=1e-5)
    assert len(free) == len(problem.layers) - 2


def test_the_cheapest_policy(measured_table, cpu):
    target = toy_target(measured_table, cpu)
    layers = describe(toy.network(MODEL), toy.SHAPE)
    space = Space.build(layers, (2, 8, 32), (2, 8, 32), paired=True)
    best = cheapest(target, space, "latency")
    assert [bits.weight for bits in best.values()] == [8, 8, 32, 8, 8, 8]  # 2 bit costs as much
    assert cheapest(target, space, "size") == space.lowest()
    assert cheapest(targets.get("bops")(), space, "bops") == space.lowest()
    # Of what costs the same it takes the more.
    assert toy.Peak().cost(layers, cheapest(toy.Peak(), space, "peak")) == toy.Peak().cost(
        layers, space.lowest()
    )
    tied = Space.build(
        layers, (2, 8, 32), (2, 8, 32), paired=True,
        groups=[("blocks.0.conv1", "blocks.0.conv2")],
    )  # fmt: skip
    # Tied, the two cost 2 + 27 in integers and 6 + 9 in float.
    assert [bits.weight for bits in cheapest(target, tied, "latency").values()] == [
        *(8, 32, 32), *(8, 8, 8),
    ]  # fmt: skip
