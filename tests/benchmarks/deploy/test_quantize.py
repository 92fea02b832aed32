"""`benchmarks.quantize` and ``juxtabit quantize``: a small network, images without labels."""

import json
from xml.etree import ElementTree

import numpy as np
import onnx
import pytest
import timm
import torch
from omegaconf import OmegaConf
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from benchmarks import cli, quantize
from benchmarks.deploy.outcome import Exported, Likeness, strip
from benchmarks.deploy.wanted import Wanted
from benchmarks.export.graphs.runtime import outputs, session
from benchmarks.export.latency import Timing
from benchmarks.models.build import ModelConfig
from benchmarks.models.preprocessing import classes_of, resolved
from benchmarks.records.store import read_record
from benchmarks.studies.real_weights import COLOUR, imagenet_paths, package
from benchmarks.suite.assets import entry_text, layers_of
from benchmarks.workers import stopping
from frameworks import LayerBits, Policy, describe, numpy_rng
from tests.real_weights import lite0

pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Twenty pictures in two folders, and a torn one."""
    root, rng = tmp_path_factory.mktemp("photos"), numpy_rng(0, "photos")
    for i in range(20):
        place = root / "ab"[i % 2] / f"{i}.png"
        place.parent.mkdir(exist_ok=True)
        coarse = rng.integers(0, 255, (4, 4, 3)).astype(np.uint8)
        Image.fromarray(coarse).resize((40, 40)).save(place)
    (root / "torn.png").write_bytes(b"nothing")
    return root


@pytest.fixture
def _not_exported(monkeypatch):
    """No file is traced and timed, which takes seconds."""

    def export(run, request, progress):
        request.out.write_bytes(b"a network")
        return Exported(Likeness(100.0, 0.0), 1.0, 2.0)

    monkeypatch.setattr("benchmarks.deploy.quantizing.export", export)


SOURCE = """
import timm

def build(num_classes=10, in_chans=3):
    made = timm.create_model("resnet8", num_classes=num_classes, in_chans=in_chans)
    size = {"input_size": (3, 24, 24), "num_classes": 10}
    made.pretrained_cfg = {**size, "mean": (0.5,), "std": (1,)}
    return made
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A file's model for 24 x 24 images, and weights of it with eleven classes."""
    root = tmp_path_factory.mktemp("model")
    (root / "net.py").write_text(SOURCE)
    torch.manual_seed(0)
    state = timm.create_model("resnet8", num_classes=11).state_dict()
    save_file({k: v.contiguous() for k, v in state.items()}, root / "w.safetensors")
    return f"{root / 'net.py'}:build", root / "w.safetensors"


class Net(nn.Module):
    """Three layers for 8 x 8 images."""

    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(1, 8, 3, padding=1)
        self.b = nn.Conv2d(8, 8, 3, padding=1)
        self.c = nn.Linear(512, 5, bias=False)

    def forward(self, x):
        x = torch.relu(self.b(torch.relu(self.a(x))))
        return self.c(x.flatten(1))


def own(seed=0):
    torch.manual_seed(seed)
    return Net().eval(), torch.randn(40, 1, 8, 8)


def test_the_command_writes_a_file_that_computes_what_it_says(folder, model, tmp_path, capsys):
    out, (name, weights) = tmp_path / "net.onnx", model
    command = ["quantize", "--model", name, "--weights", str(weights), "--images", str(folder)]
    options = ["--target", "size", "--like", "4", "--bits", "2,4,8", "--out", str(out)]
    assert cli.main([*command, *options]) == 0
    said, progress = capsys.readouterr()
    assert "1 of 21 images cannot be read and are skipped: torn.png" in progress
    assert 9 <= len(said.splitlines()) <= 12
    (record,) = map(read_record, tmp_path.glob("*.json"))
    assert record.budget["within"]
    assert record.cell["dataset"]["classes"] == 11
    assert (record.cell["dataset"]["image_size"], record.cell["dataset"]["std"]) == (24, [1] * 3)
    assert f"KL {record.accuracy['kl']:.4f}" in said
    assert "10 to calibrate, 5 to search, 5 held out" in said
    drawn = ElementTree.parse(out.with_suffix(".svg")).getroot()
    assert drawn.tag == "{http://www.w3.org/2000/svg}svg", "else no browser shows the file"
    assert f"{out.stat().st_size:,} bytes" in said
    assert onnx.load(out).graph.output[0].type.tensor_type.shape.dim[1].dim_value == 11


REFUSED = {
    "--method=magic": "unknown framework 'magic'",
    "--max-drop=-1": "max_drop = -1",
    "--metric=energy --like=4": "metric: cpu has no 'energy'; choose from ['latency', 'size']",
    "--limit=-3": "budget.limit = -3",
    "--like=9": "budget.like = 9",
    "--weights=nowhere.pth": "nowhere.pth",
    "--images=nowhere": "nowhere",
    "--out=.": "is a folder",
    "--device=tpu": "choose from auto, cpu",
}


@pytest.mark.parametrize("options", REFUSED)
def test_a_request_is_refused_before_latencies_are_measured(
    options, folder, model, monkeypatch, tmp_path, capsys
):
    monkeypatch.setattr("benchmarks.deploy.latency.lut", lambda *_: pytest.fail("measured"))
    command = ["quantize", "--model", model[0], "--weights", str(model[1]), "--target", "cpu"]
    command += ["--images", str(folder), "--out", str(tmp_path / "net.onnx")]
    assert cli.main([*command, *options.split()]) == 2
    said = capsys.readouterr().err
    assert REFUSED[options] in said
    assert "measuring" not in said


def test_bits_are_refused_by_the_command_s_own_reading(capsys):
    with pytest.raises(SystemExit):
        cli.main(["quantize", "--model", "m", "--images", "i", "--out", "o", "--bits=4,9"])
    assert "give bits within 1 to 8, such as 2,3,4,8" in capsys.readouterr().err


@pytest.mark.usefixtures("_not_exported")
def test_latencies_of_this_processor_are_measured_and_searched_on(
    folder, model, monkeypatch, tmp_path, capsys, measured_table
):
    out, table = tmp_path / "net.onnx", tmp_path / "net.cpu.json"
    kept = []

    def lut(config, display):
        plain = OmegaConf.to_container(config)
        layers = layers_of(entry_text(plain["model"]), entry_text(resolved(plain)["dataset"]))
        costs = {32: 3.0, 8: 1.0, 4: 1.0, 2: 1.0}
        table.write_text(json.dumps(measured_table.make(layers, costs, config.device)))
        assert config.out == str(table)
        display.show(0, 5, 2, 9, None)
        display.end()
        kept.append(stopping.current().kept())

    monkeypatch.setattr("benchmarks.deploy.latency.lut", lut)
    command = ["quantize", "--model", model[0], "--weights", str(model[1]), "--like", "6"]
    command += ["--images", str(folder), "--target", "cpu", "--bits", "4,8", "--out", str(out)]
    assert cli.main(command) == 0
    said, progress = capsys.readouterr()
    assert progress.splitlines()[0] == "... starting"
    assert "... measuring latencies on this cpu: a minute or two" in progress
    (record,) = (read_record(path) for path in tmp_path.glob("*.json") if path != table)
    assert record.cell["hardware"]["path"] == str(table)
    # All layers in 8 bit, which costs a third of float.
    assert record.costs["latency"] == pytest.approx(record.float_costs["latency"] / 3)
    assert "33.3% of float" in said
    assert kept == ["stopped; nothing is kept"]


def test_from_python_a_network_in_memory_needs_a_table(tmp_path):
    model, images = own()
    with pytest.raises(ValueError, match="target = 'cpu': give table, a file of 'juxtabit lut'"):
        quantize(model, images, tmp_path / "net.onnx", target="cpu")


def test_from_python_with_a_module_and_a_tensor(tmp_path, monkeypatch):
    model, images = own()
    files = {}

    def compare(models, one):
        files.update(models)
        assert one.shape == (1, 1, 8, 8)
        return {"file": Timing(2e-4, 1.13e-4, 1), "float": Timing(1.9153e-4, 3e-4, 1)}

    monkeypatch.setattr("benchmarks.deploy.exported.compare", compare)
    done = quantize(model, images, tmp_path / "net.onnx", like=3, method="greedy", seed=1)
    assert {record.cell["framework"]["name"] for record in done.rivals} == {"greedy", "uniform"}
    best = min(done.rivals, key=lambda r: r.accuracy["valid_kl"])
    assert done.record is best is done.rivals[0]
    assert set(done.policy) == {"a", "b", "c"}
    assert done.exported.kl == pytest.approx(done.network.kl, abs=1e-4)
    record = read_record(tmp_path / f"{done.record.key}.json")
    assert record.policy == done.policy.to_json()
    # The file itself, against the network that it came from.
    running = session(onnx.load(tmp_path / "net.onnx"))
    with torch.no_grad():
        want = model(images)
    found = torch.from_numpy(outputs(running, images)[0])
    apart = (want.softmax(1) * (want.log_softmax(1) - found.log_softmax(1))).sum(1).mean()
    assert 0 < float(apart) < 0.5
    assert str(done).count("\n") <= 11
    # What is timed: the file, beside one of the float network.
    assert files["file"] == onnx.load(tmp_path / "net.onnx")
    as_float = torch.from_numpy(outputs(session(files["float"]), images)[0])
    torch.testing.assert_close(as_float, want, atol=1e-4, rtol=1e-4)
    assert (done.seconds, done.float_seconds) == (1.13e-4, 1.9153e-4)
    (line,) = (line for line in str(done).splitlines() if line.startswith("the file"))
    assert line.endswith(f"{done.exported}, 0.113 ms an image on one thread, 0.59 of float")


@pytest.mark.usefixtures("_not_exported")
def test_the_cheapest_policy_within_a_drop(tmp_path):
    model, images = own()
    costs, lost = [], []
    for drop in (0.0, 30.0, 90.0):
        done = quantize(
            model, images, tmp_path / "net.onnx", max_drop=drop, method="uniform", metric=None
        )
        costs.append(done.record.costs["size"])
        lost.append(100 - done.record.accuracy["valid"])
        assert lost[-1] <= drop
        assert "the cheapest within" in str(done)
    assert costs == sorted(costs, reverse=True)
    assert costs[-1] < costs[0]


def test_a_drop_that_no_policy_keeps_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.deploy.trying.shown", lambda score: 80.0)
    model, images = own()
    with pytest.raises(ValueError, match=r"20\.00 points.*10 search-validation images.*10 points"):
        quantize(model, images, tmp_path / "net.onnx", max_drop=5, method="uniform")
    assert not (tmp_path / "net.onnx").exists()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"like": 4, "ratio": 0.5}, "like and ratio: give one budget"),
        ({"max_drop": -1}, "max_drop = -1"),
        ({"objective": "accuracy"}, "choose agreement or kl"),
        ({"weights": "w.pth"}, "has its own"),
        ({"metric": "size"}, "metric: give like"),
    ],
)
def test_what_does_not_go_together_is_refused(fields, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        Wanted(nn.Linear(2, 2), str(tmp_path), tmp_path / "o.onnx", **fields)


def test_before_any_work_a_wrong_name_is_said(tmp_path):
    model, images = own()
    for key in ("method", "target", "protocol"):
        with pytest.raises(ValueError, match=r"magic.*(choose|hawq|size)"):
            quantize(model, images, tmp_path / "net.onnx", **{key: "magic"})


def test_classes_are_those_of_the_weights(model):
    assert classes_of(ModelConfig(model[0], checkpoint=str(model[1]))) == 11
    assert classes_of(ModelConfig(model[0])) == 10
    assert classes_of(ModelConfig("tf_efficientnet_lite0")) == 1000


def test_strips_have_a_letter_a_layer():
    model, _ = own()
    layers = describe(model, (1, 8, 8))
    bits = (LayerBits(4, 8), LayerBits((2, 4) * 4, 3), LayerBits(32, 32))
    policy = Policy(dict(zip("abc", bits, strict=True)))
    assert strip(policy, layers, "weight") == "4~F"
    assert strip(policy, layers, "act") == "83F"
    assert str(Likeness(97.5, 0.01234)) == "97.50 % agreement, KL 0.0123"


@pytest.mark.slow
def test_real_weights_and_photos(tmp_path):
    """EfficientNet-Lite0 on twenty photos and five more, within 4 GiB."""
    network = lite0()
    photos, path = tmp_path / "photos", tmp_path / "lite0.safetensors"
    photos.mkdir()
    save_file({k: v.contiguous() for k, v in network.state_dict().items()}, path)
    for place in [*imagenet_paths(), *(package("skimage") / "data" / name for name in COLOUR)]:
        (photos / place.name).write_bytes(place.read_bytes())
    done = quantize(
        "tf_efficientnet_lite0", photos, tmp_path / "net.onnx", weights=path, target="bops", like=6
    )
    assert done.record.budget["within"]
    assert done.record.search["peak_memory"] < 4 * 2**30
    assert done.network.kl < 0.2
    assert done.exported.kl == pytest.approx(done.network.kl, abs=0.05)
