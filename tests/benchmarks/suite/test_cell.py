import copy
import json
import math
import warnings
from dataclasses import replace

import pytest

from benchmarks.records.record import Record
from benchmarks.suite import assets, setting
from benchmarks.suite.cell import compute
from benchmarks.suite.config import cell_of, composed
from benchmarks.suite.identity import identity_of, key_of
from benchmarks.suite.setting import check
from frameworks.baselines.uniform import Uniform
from frameworks.heuristic.hawq_v3.framework import HAWQV3

FAST = [
    "dataset.pretrain.epochs=1",
    "protocol.valid_images=60",
    "protocol.calibration_images=60",
]


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    patch.setenv("JUXTABIT_CACHE", str(tmp_path_factory.mktemp("cache")))
    yield
    patch.undo()
    assets.forget()


def cell(*overrides):
    return cell_of(composed([*FAST, *overrides]))


def done(c):
    record = compute(c, key_of(c))
    assert record.status == "done", record.error
    return record


def test_a_record_is_complete_and_readable():
    record = done(cell("framework=random", "framework.evaluations=3", "hardware=bops"))
    again = Record.from_json(json.loads(json.dumps(record.to_json(), allow_nan=False)))
    assert again == record
    assert record.budget["within"]
    assert record.costs["bops"] <= record.budget["limit"] * (1 + 1e-9)
    assert record.search["policies"] <= 3
    assert record.accuracy["fine_tuned"] is None
    assert record.accuracy["final"] == record.accuracy["ptq"]
    assert record.float_costs["bops"] == 16 * record.int8_costs["bops"]
    objectives = [point["objective"] for point in record.curve]
    assert objectives == sorted(objectives)
    assert record.data["checkpoint"]
    assert record.card["category"] == "baseline"


def test_same_cell_twice_is_byte_equal_and_seeds_differ():
    runs = [
        done(cell("framework=random", "framework.evaluations=4", "hardware=bops", f"seed={seed}"))
        for seed in (0, 0, 1)
    ]
    same = [json.dumps([r.policy, r.accuracy, r.costs]) for r in runs]
    assert same[0] == same[1]
    assert runs[0].policy != runs[2].policy


def test_a_fine_tuning_that_diverges_says_when_and_what_to_change():
    fault = ("protocol.fine_tune.epochs=1", "protocol.fine_tune.lr=1e38")
    record = compute(c := cell("protocol=controlled", "hardware=bops", *fault), key_of(c))
    assert record.status == "failed"
    last = record.error.strip().splitlines()[-1]
    assert "fine-tuning the found policy: training diverged in epoch 1: " in last
    assert "after step" in last
    assert last.endswith("lower protocol.fine_tune.lr")


def test_the_controlled_protocol_trains_the_policy():
    record = done(
        cell("protocol=controlled", "budget.like=3", "protocol.fine_tune.epochs=1", "hardware=bops")
    )
    assert record.accuracy["final"] == record.accuracy["fine_tuned"]
    assert record.accuracy["fine_tuned"] > record.accuracy["ptq"]


def test_size_pins_activations_at_their_best():
    record = done(cell("hardware=size", "budget.like=3"))
    assert {bits["act"] for bits in record.policy.values()} == {8}


@pytest.mark.parametrize("hardware", ["t4", "bitfusion", "bismo_edge"])
def test_a_device_has_no_price_for_float(hardware):
    record = done(cell(f"hardware={hardware}", "protocol.paired=true", "budget.like=4"))
    assert record.budget["within"]
    assert record.float_costs == {}
    assert record.costs["latency"] < record.int8_costs["latency"]


def test_the_key_follows_what_matters():
    base = cell()
    key = key_of(base)
    moved = copy.deepcopy(base)
    moved["dataset"]["root"] = "/elsewhere"
    moved["dataset"]["workers"] = 7
    assert key_of(moved) == key
    for path, value in (
        (("seed",), 1),
        (("budget", "like"), 3),
        (("protocol", "valid_images"), 61),
        (("framework", "paired"), True),
        (("dataset", "pretrain", "epochs"), 2),
    ):
        other = copy.deepcopy(base)
        node = other
        for part in path[:-1]:
            node = node[part]
        node[path[-1]] = value
        assert key_of(other) != key, path


def test_a_record_says_what_its_key_was_made_of():
    record = done(cell())
    assert record.identity == identity_of(cell())
    assert record.data["dataset"] == record.identity["data"]["fingerprint"]
    assert record.code == {**record.identity["code"]["framework"], "git": record.code["git"]}


def test_a_checkpoint_file_is_known_by_its_content(tmp_path):
    first, second = tmp_path / "a", tmp_path / "b"
    first.write_bytes(b"weights")
    second.write_bytes(b"weights")
    keys = {key_of(cell(f"model.checkpoint={path}")) for path in (first, second)}
    assert len(keys) == 1
    second.write_bytes(b"others!")
    assert key_of(cell(f"model.checkpoint={second}")) not in keys


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["protocol.weight_bits=[2,9]"], r"protocol\.weight_bits = \[2, 9\].*1\.\.8"),
        (["protocol.act_bits=[]"], r"protocol\.act_bits"),
        (["protocol.pinned_bits=9"], r"protocol\.pinned_bits"),
        (["protocol.ties=[[conv1,nolayer]]"], "nolayer"),
        (["protocol.name=magic"], "ptq"),
        (["protocol.quantizer=magic"], "unknown quantizer 'magic'; choose from"),
        (["protocol.fine_tune.lr=-1"], r"protocol\.fine_tune"),
        (["dataset.pretrain.optimizer=magic"], "sgd or adam"),
        (
            ["framework=haq", "framework.episodes=0"],
            r"^framework=haq: framework\.episodes = 0: must be at least 1$",
        ),
        (["budget.ratio=0.001"], "smallest cost of this space on size is"),
        (["budget.metric=latency"], r"budget\.metric: size has no 'latency'"),
        (["model=timm", "model.name=resnet9000"], "unknown model 'resnet9000'"),
        (["dataset.name=magic"], "unknown dataset 'magic'; choose from"),
        (["dataset.valid=99999"], r"dataset\.valid"),
    ],
)
def test_bad_cells_are_refused_before_any_training(overrides, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        check(cell(*overrides))


def test_an_error_in_a_cell_becomes_a_failed_record(monkeypatch):
    def broken(*_):
        raise RuntimeError("out of luck")

    monkeypatch.setattr("frameworks.baselines.uniform.Uniform.search", broken)
    c = cell()
    record = compute(c, key_of(c))
    assert record.status == "failed"
    assert "out of luck" in record.error
    assert Record.from_json(record.to_json()) == record


def test_a_skip_carries_its_reason(monkeypatch):
    monkeypatch.setattr(
        "frameworks.baselines.uniform.Uniform.skip", lambda self, problem: "not today"
    )
    c = cell()
    record = compute(c, key_of(c))
    assert (record.status, record.reason) == ("skipped", "not today")


def test_a_front_goes_into_the_record():
    small = ["framework.population=6", "framework.offspring=3", "framework.generations=4"]
    record = done(cell("framework=mohaq", *small, "hardware=bops"))
    again = Record.from_json(json.loads(json.dumps(record.to_json(), allow_nan=False)))
    assert again.front == record.front
    assert record.policy in [point["policy"] for point in record.front]
    assert all(list(p["objectives"]) == ["error", "size", "-speed-up"] for p in record.front)


def test_images_that_a_method_made_are_shared_between_budgets(tmp_path):
    small = ["framework=zeroq", "framework.images=16", "framework.steps=20", "hardware=bops"]
    records = []
    for folder, like in ((tmp_path, 2.5), (tmp_path, 3), (None, 3)):
        c = cell(*small, f"budget.like={like}")
        records.append(compute(c, key_of(c), scores=folder))
        assert records[-1].status == "done", records[-1].error
    shared, apart = records[1:]
    assert len(list(tmp_path.glob("*.safetensors"))) == 1
    assert (shared.policy, shared.accuracy) == (apart.policy, apart.accuracy)
    assert shared.curve[-1]["objective"] == apart.curve[-1]["objective"] == apart.accuracy["valid"]
    assert shared.search["images_backward"] == apart.search["images_backward"] == 16 * 20


@pytest.mark.parametrize("shared", [True, False])
def test_infinite_scores_and_notes_lose_nothing(tmp_path, monkeypatch, shared):
    score, solve = HAWQV3.score, HAWQV3.solve

    def scored(self, problem):
        scores = score(self, problem)
        scores.values["relative_error"]["weight"]["fc"] = math.inf
        return scores

    def solved(self, problem, scores):
        solution = solve(self, problem, scores)
        noted = {**solution.notes, "errors": scores.values["relative_error"]["weight"]}
        return replace(solution, notes=noted)

    monkeypatch.setattr(HAWQV3, "score", scored)
    monkeypatch.setattr(HAWQV3, "solve", solved)
    c = cell("framework=hawq_v3", "framework.images=16", "framework.probes=1", "hardware=bops")
    record = compute(c, key_of(c), scores=tmp_path if shared else None)
    assert record.status == "done", record.error
    assert record.notes["errors"]["fc"] is None
    json.dumps(record.to_json(), allow_nan=False)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("valid_images", 0),
        ("calibration_images", -1),
        ("float_share", 1.5),
        ("float_share", math.nan),
        ("steering_runs", 0),
        ("max_images", -1),
        ("max_epochs", -0.5),
        ("max_epochs", math.nan),
        ("fine_tune.lr", math.nan),
    ],
)
def test_a_number_that_means_nothing_is_refused_by_name(key, value):
    bad = cell("framework=uniform")
    *above, last = key.split(".")
    node = bad["protocol"]
    for part in above:
        node = node[part]
    node[last] = value
    named = rf"protocol\.{key} = " if not above else r"protocol\.fine_tune: recipe\.lr = nan"
    with pytest.raises(ValueError, match=named):
        check(bad)


def test_what_stays_float_is_said_once_for_a_network(monkeypatch):
    class Left:
        def text(self):
            return "half of it stays float"

    monkeypatch.setattr(setting, "accounted", lambda cell: Left())
    monkeypatch.setattr(setting, "_said", set())
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        for seed in (1, 2):
            check(cell("framework=uniform", f"seed={seed}"))
        check(cell("framework=uniform", "model=resnet20"))
    texts = [str(warning.message) for warning in seen]
    assert texts == [f"model {name}: half of it stays float" for name in ("resnet8", "resnet20")]


@pytest.mark.parametrize(
    ("protocol", "dropped"), [("ptq", True), ("controlled", True), ("paper", None)]
)
def test_weights_that_the_protocol_does_not_use_are_noted(monkeypatch, protocol, dropped):
    search = Uniform.search

    def trains(self, problem):
        weights = {k: v.clone() for k, v in problem.network.state_dict().items()}
        return replace(search(self, problem), weights=weights)

    short = ("protocol.fine_tune.epochs=1", "protocol.max_epochs=1", "protocol.max_images=60")
    c = cell(f"protocol={protocol}", "hardware=bops", *short)
    plain = done(c)
    assert "dropped" not in plain.weights
    monkeypatch.setattr(Uniform, "search", trains)
    record = done(c)
    assert record.weights == plain.weights | ({"dropped": True} if dropped else {})


def test_limits_on_two_metrics_and_a_restricted_space():
    wanted = cell(
        "framework=haq", "framework.episodes=6", "framework.warmup=2", "hardware=bops",
        "budget.metrics={size: {ratio: 0.6}, bops: {ratio: 0.5}}",
        "space.restrict=['layer2*', 'layer3*']", "space.layers={'layer3*': [3, 5]}",
    )  # fmt: skip
    record = done(wanted)
    size, bops = record.budget["bounds"]
    assert record.budget["within"]
    assert (record.budget["metric"], record.budget["limit"]) == ("size", size["limit"])
    for bound in (size, bops):
        assert record.costs[bound["metric"]] <= bound["limit"] * (1 + 1e-9)
        share = {"size": 0.6, "bops": 0.5}[bound["metric"]]
        assert bound["limit"] == pytest.approx(share * record.int8_costs[bound["metric"]])
    for name, bits in record.policy.items():
        if name.startswith("layer3"):
            assert {bits["weight"], bits["act"]} <= {3, 5}
        elif not name.startswith("layer2"):
            assert bits == {"weight": 8, "act": 8}
    Record.from_json(json.loads(json.dumps(record.to_json(), allow_nan=False)))
