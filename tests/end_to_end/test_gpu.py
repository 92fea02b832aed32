"""Commands on a GPU, where there is one: a run, bfloat16, a measured table, an export."""

import json

import pytest
import torch
from torch import nn
from torch.nn import functional

from benchmarks.cli import main
from benchmarks.lut import gpu
from benchmarks.lut.plan import shape_of
from benchmarks.lut.timing import Unsupported
from frameworks import describe

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
FAST = ["dataset.pretrain.epochs=1", "protocol.valid_images=60", "protocol.calibration_images=60"]
RUN = ["run", *FAST, "hardware=bops", "budget.like=3", "baselines=false"]


def paths(folder):
    return list(folder.rglob("records/*.json"))


def records(folder):
    found = [json.loads(path.read_text()) for path in paths(folder)]
    assert found
    assert {one["status"] for one in found} == {"done"}, [one.get("error") for one in found]
    return found


def test_a_run_gives_on_the_gpu_what_it_gives_on_the_cpu(tmp_path):
    """From the committed checkpoint: only the order of sums differs."""
    run = ["run", "protocol.calibration_images=60", "budget.like=3", "baselines=false"]
    for device in ("cpu", "cuda"):
        out = f"results={tmp_path / device}"
        assert main([*run, "framework=uniform", f"device={device}", out]) == 0
    (here,), (there,) = records(tmp_path / "cpu"), records(tmp_path / "cuda")
    assert there["environment"]["gpu"]
    assert here["key"] != there["key"]
    assert here["policy"] == there["policy"]
    assert abs(here["accuracy"]["final"] - there["accuracy"]["final"]) <= 1


@pytest.mark.parametrize("amp", ["off", "bf16"])
def test_training_runs_on_the_gpu(tmp_path, amp):
    asked = ["framework=haq", "framework.episodes=3", "framework.warmup=1", "protocol=controlled"]
    asked += ["protocol.fine_tune.epochs=1", f"amp={amp}", "device=cuda", f"results={tmp_path}"]
    assert main([*RUN, *asked]) == 0
    assert records(tmp_path)[0]["accuracy"]["final"] > 20


def test_a_table_of_the_gpu_is_measured_and_prices_a_search(tmp_path):
    table = tmp_path / "gpu.json"
    asked = ["device=gpu", "processes=1", "extra=0", "seconds=0.01", "force=true"]
    assert main(["lut", f"out={table}", *asked]) == 0
    assert json.loads(table.read_text())["versions"]["gpu"] == torch.cuda.get_device_name()
    target = ["hardware=gpu", f"hardware.path={table}", "budget.ratio=1", "protocol.pinned_bits=0"]
    run = ["run", *FAST, "baselines=false", "framework=greedy", "framework.evaluations=4"]
    assert main([*run, *target, f"results={tmp_path / 'r'}"]) == 0
    records(tmp_path / "r")


def test_a_record_of_the_gpu_is_exported(tmp_path):
    out = [f"results={tmp_path}", "device=cuda"]
    assert main([*RUN, "framework=uniform", *out]) == 0
    records(tmp_path)
    assert (
        main(
            [
                "export",
                str(paths(tmp_path)[0]),
                "--to",
                "onnx",
                "--out",
                str(tmp_path / "x.onnx"),
            ]
        )
        == 0
    )


MODULES = {
    "conv": (nn.Conv2d(16, 24, 3, padding=1), (16, 14, 14)),
    "depthwise": (nn.Conv2d(16, 16, 3, 2, 1, groups=16), (16, 14, 14)),
    "tokens": (nn.Linear(64, 32), (49, 64)),
}


@pytest.mark.parametrize("arithmetic", ["float32", "float16", "int8"])
@pytest.mark.parametrize("name", MODULES)
def test_a_layer_is_timed_by_the_clock_of_the_gpu(name, arithmetic):
    module, shape = MODULES[name]
    layer = shape_of(describe(nn.Sequential(module), shape)[0])
    if arithmetic == "int8" and gpu.int8_reason(layer):
        with pytest.raises(Unsupported):
            gpu.prepare(layer, arithmetic, 1)
        return
    times = [gpu.prepare(layer, arithmetic, 1).sample() for _ in range(3)]
    assert all(0 < seconds < 1 for seconds in times)


def test_the_int8_product_of_the_gpu_is_that_of_whole_numbers():
    x = torch.randint(-128, 128, (32, 64), dtype=torch.int8)
    w = torch.randint(-128, 128, (16, 64), dtype=torch.int8)
    found = torch._int_mm(x.cuda(), w.cuda().t()).cpu()
    assert torch.equal(found.double(), functional.linear(x.double(), w.double()))
