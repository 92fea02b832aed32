import json
import math
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch

from benchmarks.cli import main
from benchmarks.data.load import DatasetConfig
from benchmarks.models.build import ModelConfig
from benchmarks.models.committed import entries
from benchmarks.models.pretrain import recipe_for
from benchmarks.studies.diagnose import (
    FLOAT,
    MAPS,
    Finding,
    as_rows,
    diagnose,
    picture,
    signal,
    table,
)
from benchmarks.suite.config import cell_of, composed
from frameworks import Policy
from frameworks.testing import toy


@pytest.fixture(scope="module")
def problem():
    return toy.make_problem("bops", like=3, bits=(2, 4, 8))


@pytest.fixture(scope="module")
def found(problem):
    return diagnose(problem)


def test_signal_in_decibels():
    x = torch.tensor([1.0, 2.0, 2.0])
    assert signal(x, x + 0.3) == pytest.approx(10 * math.log10(9 / (3 * 0.09)))
    assert signal(x, x) == math.inf


def test_every_layer_tensor_and_bit_width_is_there_once(problem, found):
    names = [layer.name for layer in problem.layers]
    keys = [(f.layer, f.kind, f.bits) for f in found]
    assert keys == [(n, k, b) for n in names for k in ("weight", "act") for b in (2, 4, 8)]


def test_more_bits_are_a_better_signal_and_eight_change_little(found):
    at = {(f.layer, f.kind, f.bits): f for f in found}
    for layer, kind, _ in at:
        assert at[layer, kind, 2].signal < at[layer, kind, 4].signal < at[layer, kind, 8].signal
        assert at[layer, kind, 8].agreement > 97
        assert at[layer, kind, 8].divergence < 0.01


def test_agreement_and_divergence_are_those_of_the_network_with_this_layer_alone(problem, found):
    finding = next(f for f in found if f.kind == "weight" and f.bits == 2)
    policy = Policy.uniform(problem.layers, FLOAT, FLOAT).replace(finding.layer, weight=2)
    model = problem.correct(problem.quantized(policy))
    with torch.no_grad():
        ours, theirs = (m(problem.valid.x) for m in (model, problem.float_model()))
    same = 100 * float((ours.argmax(1) == theirs.argmax(1)).double().mean())
    p, q = theirs.softmax(1), ours.softmax(1)
    assert finding.agreement == pytest.approx(same)
    assert finding.divergence == pytest.approx(float((p * (p / q).log()).sum(1).mean()), rel=1e-3)


def test_the_table_and_the_picture_show_all_of_them(found):
    shown = table(found)
    assert "weights" in shown
    assert "input activations" in shown
    assert all(f"{f.signal:.1f} dB" in shown for f in found)
    drawn = ElementTree.fromstring(picture(found, "a <network> & more"))
    boxes = [e for e in drawn.iter() if e.tag.endswith("rect") and "rgb" in e.get("fill", "")]
    assert len(boxes) == 2 * len(found), "two maps"
    texts = [e.text for e in drawn.iter() if e.tag.endswith("text")]
    for what in ("agreement of top-1, %", "signal to noise, dB"):
        assert what in texts
    assert not [f for f in found if f"{f.agreement:.1f}" not in texts]
    assert not [f for f in found if f"{f.signal:.1f}" not in texts]


def test_a_map_is_the_darker_the_more_is_lost():
    agreement, signal_to_noise = MAPS
    for shown, pairs in (
        (agreement, [(9, 100), (9, 90), (9, 0)]),
        (signal_to_noise, [(40, 9), (20, 9), (0, 9)]),
    ):
        lost = [
            shown.lost(Finding("fc", "act", 8, decibels, share, 0.0)) for decibels, share in pairs
        ]
        assert lost == sorted(lost)
        assert (lost[0], lost[-1]) == (0, 1)
    exact = picture([Finding("fc", "act", 8, math.inf, 100.0, 0.0)], "net")
    assert ">exact</text>" in exact


def test_a_signal_without_noise_is_null_in_json():
    (row,) = as_rows([Finding("fc", "act", 8, math.inf, 100.0, 0.0)])
    assert row["signal"] is None
    assert json.dumps(row, allow_nan=False)


def test_the_command_writes_table_picture_and_data(tmp_path, capsys):
    few = ["model=resnet8", "dataset=digits", "protocol.valid_images=32",
           "protocol.weight_bits=[2,8]", "protocol.act_bits=[8]", "protocol.quantizer=minmax",
           "protocol.calibration_images=32"]  # fmt: skip
    assert main(["diagnose", *few, "--out", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "resnet8 on digits: one layer alone quantized" in shown
    rows = json.loads((tmp_path / "diagnosis.json").read_text())
    assert {row["kind"] for row in rows} == {"weight"}, "8 bit alone are no choice"
    assert (tmp_path / "diagnosis.txt").read_text() in shown
    drawn = ElementTree.parse(tmp_path / "diagnosis.svg").getroot()
    assert drawn.tag == "{http://www.w3.org/2000/svg}svg", "else no browser shows the file"


def no_work(monkeypatch):
    monkeypatch.setattr("benchmarks.studies.diagnose.Run", lambda *_: pytest.fail("has begun"))


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_a_folder_that_cannot_be_written_is_refused_before_the_work(
    place, tmp_path, capsys, monkeypatch
):
    no_work(monkeypatch)
    (tmp_path / "file").write_text("no folder")
    assert main(["diagnose", "--out", str(tmp_path / place)]) == 2
    assert f"--out {tmp_path / place}: cannot be written into" in capsys.readouterr().err


def test_one_bit_width_alone_is_refused_before_the_work(capsys, monkeypatch):
    no_work(monkeypatch)
    alone = [f"protocol.{key}=[8]" for key in ("weight_bits", "act_bits")]
    assert main(["diagnose", "model=resnet8", "dataset=digits", *alone]) == 2
    said = capsys.readouterr().err
    assert "one bit width alone leaves nothing to compare: give several, as in" in said


def test_the_guides_network_comes_with_the_project():
    guide = (Path(__file__).parents[3] / "docs" / "researchers.md").read_text()
    (command,) = re.findall(r"^juxtabit diagnose (.*) --out", guide, re.MULTILINE)
    entry = cell_of(composed(command.split()))
    recipe = recipe_for(ModelConfig(**entry["model"]), DatasetConfig(**entry["dataset"]))
    known = {(e.model["name"], e.dataset["name"]): e.recipe["epochs"] for e in entries()}
    assert known[entry["model"]["name"], entry["dataset"]["name"]] == recipe.epochs


@pytest.mark.slow
def test_the_layers_of_a_transformer_that_comes_with_the_project(tmp_path, capsys):
    few = ["protocol.weight_bits=[2,8]", "protocol.act_bits=[2,8]", "protocol.valid_images=200"]
    assert main(["diagnose", "model=test_vit", "dataset=digits", *few, "--out", str(tmp_path)]) == 0
    rows = json.loads((tmp_path / "diagnosis.json").read_text())
    assert {row["kind"] for row in rows} == {"weight", "act"}
    assert any(row["layer"] == "blocks.0.attn.qkv" for row in rows)
    assert min(row["agreement"] for row in rows if row["bits"] == 8) > 97
    assert min(row["agreement"] for row in rows if row["bits"] == 2) < 90
    assert "test_vit on digits" in capsys.readouterr().out


def test_a_mistyped_key_is_refused(capsys):
    assert main(["diagnose", "modle=resnet8"]) == 2
    assert "modle" in capsys.readouterr().err


def test_a_device_that_is_not_there_is_refused_before_any_work(capsys):
    assert main(["diagnose", "model=resnet8", "device=gpu"]) == 2
    assert "device = 'gpu': choose from auto, cpu" in capsys.readouterr().err
