import json
import math
from xml.etree import ElementTree

import pytest
import torch

from benchmarks.cli import main
from benchmarks.studies.diagnose import FLOAT, Finding, as_rows, diagnose, picture, signal, table
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
    assert len(boxes) == len(found)


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
    ElementTree.parse(tmp_path / "diagnosis.svg")


def test_a_mistyped_key_is_refused(capsys):
    assert main(["diagnose", "modle=resnet8"]) == 2
    assert "modle" in capsys.readouterr().err


def test_a_device_that_is_not_there_is_refused_before_any_work(capsys):
    assert main(["diagnose", "model=resnet8", "device=gpu"]) == 2
    assert "device = 'gpu': choose from auto, cpu" in capsys.readouterr().err
