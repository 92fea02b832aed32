import pytest
import torch

from benchmarks.fingerprints.numerics import Place, compute_on, numerics, place, place_named
from frameworks.core.evaluation.train import cross_entropy, train_epoch

CPU = Place(torch.device("cpu"))


@pytest.fixture(autouse=True)
def _as_before():
    yield
    compute_on(CPU)


def test_by_default_the_cpu_in_float32():
    assert place() == CPU
    assert numerics()["device"] == "cpu"
    assert "amp" not in numerics()


@pytest.mark.parametrize("amp", [True, "bf16"])
def test_another_precision_is_another_number(amp):
    compute_on(place_named("cpu", amp))
    assert numerics()["amp"] == "bf16"


@pytest.mark.parametrize(
    ("device", "amp", "message"),
    [
        ("gpu", "off", "device = 'gpu': choose from auto, cpu, cuda, cuda:N, mps"),
        ("cpu:1", "off", "device = 'cpu:1': choose from"),
        ("cuda:x", "off", "device = 'cuda:x': choose from"),
        ("cpu", "fp8", "amp = 'fp8': choose from off, bf16"),
    ],
)
def test_what_there_is_not_is_refused_with_the_choices(device, amp, message):
    with pytest.raises(ValueError, match=message):
        place_named(device, amp)


@pytest.mark.parametrize("device", ["cuda", "cuda:3", "mps"])
def test_a_device_that_is_not_here_is_refused(device, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    with pytest.raises(ValueError, match=f"device = {device}: torch finds no"):
        place_named(device)
    assert place_named("auto") == CPU


def test_auto_takes_the_accelerator(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert place_named("auto") == Place(torch.device("cuda"))
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    with pytest.raises(ValueError, match=r"device = cuda:3: torch finds 1"):
        place_named("cuda:3")


def test_training_steps_run_in_the_precision_that_was_chosen():
    model, seen = torch.nn.Linear(4, 3), []
    model.register_forward_hook(lambda module, x, y: seen.append(y.dtype))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    batch = torch.randn(8, 4), torch.arange(8) % 3
    for amp in ("off", "bf16", "off"):
        compute_on(place_named("cpu", amp))
        train_epoch(model, [batch], [optimizer], cross_entropy)
    assert seen == [torch.float32, torch.bfloat16, torch.float32]
    assert {p.dtype for p in model.parameters()} == {torch.float32}
