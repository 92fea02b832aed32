"""Whole cells on a GPU, a pretended one where there is none (`frameworks.testing.placement`)."""

import pytest
import torch

from benchmarks.fingerprints.numerics import Place, compute_on
from benchmarks.suite import assets
from benchmarks.suite.cell import compute
from benchmarks.suite.config import cell_of, composed
from benchmarks.suite.identity import key_of
from frameworks.testing.placement import some_gpu

FAST = [
    "model=resnet8", "dataset=digits", "hardware=bops", "budget.like=3",
    "protocol.calibration_images=32", "protocol.valid_images=32",
]  # fmt: skip


@pytest.fixture
def gpu():
    assets.forget()
    with some_gpu() as device:
        compute_on(Place(device))
        yield device
    compute_on(Place(torch.device("cpu")))
    assets.forget()


@pytest.mark.parametrize(
    "overrides",
    [
        ["framework=uniform", "protocol=ptq", "protocol.quantizer=minmax"],
        ["framework=uniform", "protocol=controlled", "protocol.quantizer=minmax",
         "protocol.fine_tune.images=64"],
    ],
    ids=["ptq", "controlled"],
)  # fmt: skip
def test_every_stage_of_a_cell_runs_on_the_device(gpu, overrides):
    cell = cell_of(composed([*FAST, *overrides]))
    record = compute(cell, key_of(cell))
    assert record.status == "done", record.error
    assert record.identity["numerics"]["device"] == "cuda"
    assert record.accuracy["final"] > 50


def test_a_network_is_pretrained_on_the_device_and_kept_for_all(gpu, tmp_path, monkeypatch):
    monkeypatch.setenv("JUXTABIT_CACHE", str(tmp_path))
    shorter = ["+model.pretrain={epochs: 1, images: 256}", "retrain=true"]
    cell = cell_of(composed([*FAST, *shorter, "framework=uniform", "protocol=ptq"]))
    model, dataset = (assets.entry_text(cell[axis]) for axis in ("model", "dataset"))
    checkpoint, _ = assets.checkpoint_of(model, dataset, assets.Reporter(lambda *_: None))
    assert checkpoint.origin == "trained here"
    assert {p.device.type for p in checkpoint.model.parameters()} == {"cpu"}
