import json
import re

import pytest
import torch
from torch import nn

from benchmarks.studies import trained_statistics as study
from frameworks import TensorSplit, torch_rng


@pytest.fixture
def train():
    x = 3 + 2 * torch.randn(200, 4, 6, 6, generator=torch_rng(0, "x"))
    return TensorSplit(x, torch.zeros(200, dtype=torch.long), flip=True)


def test_ways_on_one_batchnorm(train):
    """With nothing before it, all ways see the same inputs; flipping leaves moments alone."""
    for name, way in study.WAYS.items():
        model = nn.Sequential(nn.BatchNorm2d(4)).eval()
        way(model, train, 0)
        assert not model.training
        if name == "as trained":
            assert torch.equal(model[0].running_mean, torch.zeros(4))
            continue
        torch.testing.assert_close(
            model[0].running_mean, train.x.mean((0, 2, 3)), atol=0.02, rtol=0
        )
        torch.testing.assert_close(model[0].running_var, train.x.var((0, 2, 3)), atol=0.1, rtol=0)


def test_the_mode_matters_behind_a_batchnorm(train):
    """In eval mode the second sees the first's output by its new statistics, for any batch."""

    def made(way):
        model = nn.Sequential(nn.BatchNorm2d(4), nn.Hardtanh(), nn.BatchNorm2d(4)).eval()
        way(model, train, 0)
        return model

    model = made(study.in_order(200))
    inner = model[:2](train.x)
    torch.testing.assert_close(model[2].running_mean, inner.mean((0, 2, 3)))
    other = made(study.in_training_mode(200))
    assert not torch.allclose(other[2].running_mean, model[2].running_mean, rtol=1e-5, atol=1e-6)


def test_the_table(tmp_path, monkeypatch):
    score = dict.fromkeys(study.WAYS, 90.0)
    rows = [
        {"bits": f"W{w}A{a}", "seed": seed, "accuracy": {**score, "as trained": 90.0 - seed}}
        for w, a in study.BITS
        for seed in study.SEEDS
    ]
    (tmp_path / "trained.json").write_text(json.dumps({"rows": rows}))
    monkeypatch.setattr(study, "trained", lambda *_: pytest.fail("it is in the output"))
    assert study.main(["--out", str(tmp_path)]) == 0
    text = (tmp_path / "trained.md").read_text()
    assert re.search(r"\| W3A2 \| 2 \| 88\.00 \| 90\.00 ", text)
    assert "| mean | | 89.00 | 90.00 |" in text
    assert "| furthest from the best | | -2.00 | 0.00 |" in text
