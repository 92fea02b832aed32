import copy
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pandas as pd
import pytest
import torch
from torch import nn
from torch.nn.utils import prune
from torch.utils.data import Dataset

import benchmarks
from benchmarks import juxtapose, search
from benchmarks.calls.asked import Asked
from benchmarks.fingerprints.numerics import place
from benchmarks.records.record import Record
from benchmarks.suite.cell import compute
from benchmarks.suite.config import cell_of, composed
from benchmarks.suite.identity import key_of
from frameworks import Policy, registry
from frameworks.metaheuristic.evoq import EvoQ
from frameworks.testing import toy
from tests.golden.cells import SMALL

ROOT = Path(__file__).resolve().parents[3]
FAST = {"name": "ptq", "calibration_images": 64, "valid_images": 128, "steering_runs": 2}
LABELS = torch.zeros(4, dtype=torch.int64)
HAWQ = {"images": 32, "batch": 32, "probes": 2}


@pytest.fixture(scope="module")
def data():
    """The toy problem's network and images."""
    parts = {name: toy.split(name, 128) for name in ("train", "valid", "test")}
    return {"model": toy.network(), **parts}


def hawq():
    return registry.get("hawq_v3")(**HAWQ)


class Other(nn.Module):
    """The toy network with another form of output."""

    def __init__(self, change):
        super().__init__()
        self.inner, self.change = toy.network(), change

    def forward(self, x):
        return self.change(self.inner(x))


def of_type(dtype):
    return copy.deepcopy(toy.network()).to(dtype)


class Few(Dataset):
    """Four times the same image of the same class."""

    def __init__(self, x, y):
        self.sample = x, y

    def __getitem__(self, index):
        return self.sample

    def __len__(self):
        return 4


def state(model):
    found = {name: value.clone() for name, value in model.state_dict().items()}
    return found, [(m.training, len(m._forward_hooks)) for m in model.modules()]


def test_a_search_gives_policy_score_and_network(data, capsys):
    before, modes = state(data["model"])
    found = search(**data, method=hawq(), like=3, target="bops", protocol=FAST)
    assert isinstance(found.policy, Policy)
    assert found.within
    assert found.costs["bops"] <= found.record.budget["limit"]
    network = found.network()
    assert network.policy == found.policy
    right = (network(data["test"].x).argmax(1) == data["test"].y).sum()
    assert 100 * int(right) / 128 == found.score
    after, after_modes = state(data["model"])
    assert modes == after_modes
    assert all(torch.equal(before[name], after[name]) for name in before)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "hawq_v3 ToyConvNet own data bops like=3 ptq" in shown.err
    assert Record.from_json(found.record.to_json()) == found.record


def test_the_network_of_a_search_is_a_copy(data):
    found = search(**data, method="uniform", protocol=FAST, quiet=True)
    with torch.no_grad():
        next(found.network().parameters()).add_(1)
    assert search(**data, method="uniform", protocol=FAST, quiet=True).score == found.score
    x = data["test"].x
    assert int((found.network()(x).argmax(1) == data["test"].y).sum()) == round(1.28 * found.score)


class Keeping(Other):
    """Keeps what it gives in training, and a buffer, with their graphs."""

    def forward(self, x):
        y = self.inner(x)
        if self.training:
            self.last = y
        return y


def test_a_network_with_results_of_its_own_is_taken(data):
    """Torch copies no tensor with a graph: not a pruned weight, nor what a module keeps."""
    model = Keeping(None)
    model.inner = copy.deepcopy(model.inner)
    prune.l1_unstructured(model.inner.stem, "weight", 0.5)
    model.register_buffer("mean", model.inner.stem.weight.mean(), persistent=False)
    model.train()(data["train"].x[:8])
    protocol = {**FAST, "name": "controlled", "fine_tune": {"epochs": 1}}
    found = search(**{**data, "model": model}, method="uniform", protocol=protocol, quiet=True)
    assert model.last.grad_fn is not None
    x, y = data["test"].x, data["test"].y
    assert int((found.network()(x).argmax(1) == y).sum()) == round(1.28 * found.score)


@pytest.mark.parametrize("protocol", ["ptq", "controlled"])
def test_a_call_computes_what_a_cell_of_the_suite_does(cache_folder, protocol):
    """The numbers are equal to the last bit: the stages are the same."""
    from benchmarks.suite.assets import Reporter, checkpoint_of, entry_text, splits_of

    options = ["framework=haq", "framework.episodes=4", f"protocol={protocol}"]
    cell = cell_of(composed([*SMALL, *options]))
    record = compute(cell, key_of(cell))
    assert record.status == "done", record.error
    model, dataset = entry_text(cell["model"]), entry_text(cell["dataset"])
    network = checkpoint_of(model, dataset, Reporter(lambda *_: None))[0].model
    splits = splits_of(dataset)
    found = search(
        network, splits.train, splits.valid, registry.get("haq")(episodes=4), test=splits.test,
        like=3, target="bops", protocol=cell["protocol"], quiet=True,
    )  # fmt: skip
    assert found.record.policy == record.policy
    assert found.record.accuracy == record.accuracy
    assert found.record.costs == record.costs
    assert found.record.notes == record.notes


@pytest.mark.parametrize(
    "bits", [np.array([2, 4]), [np.int64(2), np.int64(4)], (bit for bit in (2, 4)), {2: "", 4: ""}]
)
def test_candidate_bits_come_in_any_iterable(bits):
    asked = Asked(like=3, bits=bits)
    cells = [asked.cell("mine", {"name": "uniform"}, seed) for seed in (0, 1)]
    assert [cell["protocol"]["weight_bits"] for cell in cells] == [[2, 4], [2, 4]]


def test_a_compiled_network_gives_what_it_gives_uncompiled(data):
    compiled = data | {"model": torch.compile(data["model"])}
    one, two = (
        search(**given, method="uniform", protocol=FAST, quiet=True) for given in (data, compiled)
    )
    assert (one.score, one.policy) == (two.score, two.policy)
    assert one.record.cell == two.record.cell


def test_a_table_has_a_row_a_method_with_the_baselines(data, capsys):
    table = juxtapose(
        **data, methods={"hawq_v3": HAWQ, "haq": {"episodes": 4}, "bsq": {}},
        like=3, target="bops", protocol=FAST, bits=(2, 4, 8), baselines=False,
    )  # fmt: skip
    assert isinstance(table, pd.DataFrame)
    assert set(table.index) == {"hawq_v3", "haq", "bsq"}
    done = table[table.status == "done"]
    assert list(done.accuracy) == sorted(done.accuracy, reverse=True)
    assert (done.of_budget <= 1 + 1e-9).all()
    assert table.loc["haq", "policies"] == 4
    assert table.loc["haq", "images"] > 4 * 128
    assert isinstance(table.loc["haq", "policy"], Policy)
    assert {b.weight for b in table.loc["haq", "policy"].values()} <= {2, 4, 8}
    assert table.attrs["title"].startswith("ToyConvNet | own data | bops (model) | ptq | like=3")
    assert "[3/3]" in capsys.readouterr().err


def test_baselines_get_what_each_method_gets(data):
    table = juxtapose(**data, methods={"haq": {"episodes": 4}}, protocol=FAST, quiet=True)
    assert {"haq", "uniform", "random", "greedy"} == set(table.index)
    assert table.baseline.sum() == 3
    assert table.loc["random", "policies"] <= 4
    assert table.loc["haq", "gain"] == pytest.approx(
        table.loc["haq", "accuracy"] - table.loc["uniform", "accuracy"]
    )


@pytest.mark.slow
def test_seeds_give_a_mean_and_an_interval(data, capsys):
    common = {"methods": {"random": {"evaluations": 2}}, "baselines": False, "protocol": FAST}
    table = juxtapose(**data, **common, seeds=(0, 1, 2), quiet=True)
    single = [juxtapose(**data, **common, seeds=i, quiet=True).accuracy.item() for i in range(3)]
    row = table.loc["random"]
    assert row.accuracy == pytest.approx(sum(single) / 3)
    assert (row.low, row.high) == (min(single), max(single))
    assert capsys.readouterr().err == ""


def test_without_test_images_the_search_validation_images_stand(data):
    whole = {**FAST, "valid_images": 9999}
    images = {name: data[name] for name in ("model", "train", "valid")}
    found = search(**images, method="uniform", protocol=whole, quiet=True)
    assert found.score == found.record.accuracy["valid"]


def test_several_limits(data):
    found = search(
        **data, method="uniform", metrics={"size": {"like": 3}, "bops": {"ratio": 0.5}},
        target="bops", protocol=FAST, quiet=True,
    )  # fmt: skip
    assert found.within
    assert [bound["metric"] for bound in found.record.budget["bounds"]] == ["size", "bops"]


def test_a_method_that_fails_or_is_skipped_has_a_row_that_says_why(data, monkeypatch):
    def broken(self, problem):
        raise RuntimeError("out of luck")

    monkeypatch.setattr("frameworks.baselines.greedy.Greedy.search", broken)
    monkeypatch.setattr("frameworks.baselines.uniform.Uniform.skip", lambda *_: "not today")
    call = {**data, "protocol": FAST, "quiet": True}
    table = juxtapose(**call, methods=["greedy", "uniform", hawq()], baselines=False)
    assert table.status.to_dict() == {"hawq_v3": "done", "greedy": "failed", "uniform": "skipped"}
    assert "out of luck" in table.loc["greedy", "reason"]
    assert "not today" in table.loc["uniform", "reason"]
    assert pd.isna(table.loc["greedy", "accuracy"])
    with pytest.raises(RuntimeError, match="out of luck"):
        search(**call, method="greedy")
    with pytest.raises(ValueError, match="uniform cannot be used here: not today"):
        search(**call, method="uniform")
    assert place().device.type == "cpu"


def test_a_given_policy_has_a_row(data, tmp_path):
    path = tmp_path / "toolkit.json"
    path.write_text("[4, 4, 4, 4]")
    methods = {"given": {"policy": str(path)}}
    table = juxtapose(**data, methods=methods, baselines=False, protocol=FAST, quiet=True)
    assert list(table.index) == ["toolkit"]


def test_a_found_network_is_exported(data, tmp_path, capsys):
    found = search(**data, method=hawq(), like=3, target="bops", protocol=FAST, quiet=True)
    path = found.export(tmp_path / "net.onnx")
    session = onnxruntime.InferenceSession(path)
    x = data["test"].x
    (out,) = session.run(None, {session.get_inputs()[0].name: x.contiguous().numpy()})
    ours = found.network()(x).argmax(1)
    assert (torch.from_numpy(out).argmax(1) == ours).all()
    with pytest.raises(IsADirectoryError):
        found.export(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "haqq"}, r"unknown framework 'haqq'.*; choose from adaquant_ip, "),
        ({"method": ["haq"]}, r"method is a list: give a name or a framework"),
        ({"target": "bop"}, r"unknown hardware 'bop'.*; choose from "),
        ({"target": {"path": "x"}}, r"target = .*: give a name, or a mapping with a name"),
        ({"target": {"name": "size", "speed": 1}}, r"target: size: .*speed.*the options are none"),
        ({"protocol": "magic"}, r"protocol = 'magic': choose from ptq, controlled, paper"),
        ({"protocol": {"valid_image": 3}}, r"protocol: Key 'valid_image' not in .*valid_images"),
        ({"protocol": {"valid_images": 0}}, r"protocol\.valid_images = 0: give a number of at"),
        ({"bits": (2, 9)}, r"protocol\.weight_bits = \[2, 9\]"),
        ({"quantizer": "magic"}, r"unknown quantizer 'magic'"),
        ({"space": {"restrict": ["head"]}}, r"space\.restrict: no layer fits 'head'"),
        ({"space": {"only": ["head"]}}, r"space: Key 'only' not in"),
        ({"like": 3, "ratio": 0.5}, r"exactly one of like, ratio and limit"),
        ({"ratio": 1e-6}, r"smallest cost of this space"),
        ({"bits": 4}, r"bits = 4: give several candidates, such as \(2, 4, 8\)"),
        ({"bits": "48"}, r"bits = '48': give several candidates"),
        ({"bits": (4, True)}, r"bits = \(4, True\): give several candidates"),
        ({"bits": []}, r"bits = \[\]: give several candidates"),
        ({"bits": np.array(4)}, r"bits = array\(4\): give several candidates"),
        ({"bits": [[2, 4]]}, r"bits = \[\[2, 4\]\]: give several candidates"),
        ({"like": "4"}, r"^like = '4': give a number"),
        ({"like": [4]}, r"^like = \[4\]: give a number"),
        ({"metrics": {"size": {"like": "4"}}}, r"metrics\.size: budget\.like = '4': give a number"),
        ({"protocol": 3}, r"protocol = 3: give a name, .*; the names are ptq, controlled, paper"),
        ({"space": "paired"}, r"space = 'paired': give a mapping; the keys are .*restrict"),
        ({"device": 0}, r"device = 0: choose from auto, cpu, cuda"),
        ({"amp": ["off"]}, r"amp = \['off'\]: choose from off, bf16"),
        ({"like": True}, r"like = True: give a number"),
        ({"ratio": True}, r"ratio = True: give a number"),
        ({"metrics": {"size": {"like": True}}}, r"budget\.like = True: give a number"),
        ({"seed": "one"}, r"seed = 'one': give a whole number"),
        ({"device": "tpu"}, r"device = 'tpu': choose from auto"),
        ({"model": "resnet8"}, r"model is a str: give a torch\.nn\.Module"),
        ({"model": nn.Flatten()}, r"model has no parameters"),
        ({"model": nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten())}, r"model fails on images of"),
        ({"valid": toy.split("valid", 8).x}, r"valid is a Tensor: give a DataLoader"),
        ({"model": Other(lambda y: {"out": y})}, r"a dict of 1 outputs, not .*, classes\];"),
        ({"model": Other(lambda y: (y, y))}, r"model gives a tuple of 2 outputs, not one float"),
        (
            {"model": Other(lambda y: y[..., None])},
            r"gives \[4, 4, 1\], not one .*, classes\]$",
        ),
        ({"model": of_type(torch.float16)}, r"model: \S+ is float16; convert the model with"),
        ({"model": of_type(torch.bfloat16)}, r"model: \S+ is bfloat16; convert the model with"),
        ({"model": of_type(torch.float64)}, r"model: \S+ is float64; convert the model with"),
        ({"valid": Few(torch.zeros(2, 9, 9), 0)}, r"valid: images of \[2, 9, 9\], train's"),
        ({"test": Few(torch.zeros(toy.SHAPE), 99)}, r"test, image 0: its label is 99"),
        ({"valid": (torch.zeros(4, 3, 9, 9), LABELS)}, r"valid: images of \[3, 9, 9\]"),
        ({"valid": (torch.zeros(4, *toy.SHAPE), LABELS + 99)}, r"valid, .* labels run from"),
    ],
)
def test_wrong_arguments_are_refused_before_any_work(data, monkeypatch, change, message):
    monkeypatch.setattr("benchmarks.suite.cell.Run.go", lambda self: pytest.fail("it has begun"))
    with pytest.raises((TypeError, ValueError), match=message):
        search(**{**data, "method": "uniform", "quiet": True, **change})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"methods": []}, r"methods is empty: choose from adaquant_ip"),
        ({"methods": 3}, r"methods is a int: give names or frameworks"),
        ({"methods": [3]}, r"methods has a int: give names or frameworks"),
        ({"methods": {"haq": {"episode": 3}}}, r"methods: haq: .*; the options are .*episodes"),
        ({"methods": {"haq": {"episodes": 0}}}, r"framework\.episodes = 0: must be at least 1"),
        ({"methods": "haq", "seeds": ()}, r"seeds is empty"),
    ],
)
def test_wrong_methods_are_refused_before_any_work(data, monkeypatch, change, message):
    monkeypatch.setattr("benchmarks.suite.cell.Run.go", lambda self: pytest.fail("it has begun"))
    with pytest.raises((TypeError, ValueError), match=message):
        juxtapose(**{**data, "quiet": True, **change})


class Auxiliary(Other):
    def forward(self, x):
        y = self.inner(x)
        return (y, y) if self.training else y


def test_a_second_head_in_train_mode_is_refused_where_the_protocol_trains(data, monkeypatch):
    call = {**data, "model": Auxiliary(None), "method": "uniform", "quiet": True}
    assert search(**call, protocol=FAST).score > 0
    monkeypatch.setattr("benchmarks.suite.cell.Run.search", lambda *_: pytest.fail("it has begun"))
    short = {"name": "controlled", "fine_tune": {"epochs": 1}}
    with pytest.raises(ValueError, match=r"the network in train mode gives a tuple of 2 outputs"):
        search(**call, protocol=short)


def test_a_method_that_trains_nothing_takes_a_network_that_cannot_be_trained(data):
    call = {**data, "model": Auxiliary(None).requires_grad_(False), "quiet": True}
    short = {"images": 16, "evaluations": 6, "population": 3, "tournament": 2}
    paper = {"name": "paper", "calibration_images": 32, "valid_images": 32}
    assert search(**call, method=EvoQ(**short), protocol=paper).score > 0


def test_the_calls_are_there_without_being_imported_at_once():
    assert {"juxtapose", "search"} <= set(dir(benchmarks))
    with pytest.raises(AttributeError, match="no attribute 'searches'"):
        benchmarks.searches  # noqa: B018
    code = "import sys, benchmarks; assert 'torch' not in sys.modules; benchmarks.search"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
