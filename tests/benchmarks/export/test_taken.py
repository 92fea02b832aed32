"""Networks that are rewritten where they are taken, exported and checked like any other."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from benchmarks.export.formats.integers import Integers
from benchmarks.export.formats.qdq import to_qdq
from benchmarks.export.graphs.codes import exported_layers
from benchmarks.export.graphs.trace import traced
from benchmarks.export.verify import verify
from frameworks import (
    Policy,
    QModel,
    TensorSplit,
    account,
    describe,
    observe,
    schemes,
    torch_rng,
)


class Everything(nn.Module):
    """A transposed convolution, recurrent rows, an encoder's attention, a weight read, one tied."""

    def __init__(self):
        super().__init__()
        self.up = nn.ConvTranspose2d(1, 8, 4, 2, 1)
        self.rows = nn.GRU(8, 6, batch_first=True)
        self.encoder = nn.TransformerEncoder(
            nn.TransformerEncoderLayer(6, 2, 8, batch_first=True), 1, enable_nested_tensor=False
        )
        self.read, self.one, self.two = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6)
        self.two.weight = self.one.weight
        self.head = nn.utils.parametrizations.weight_norm(nn.Linear(6, 4))

    def forward(self, x):
        x = torch.relu(self.up(x)).mean(2).transpose(1, 2)
        x = self.encoder(self.rows(x)[0])
        x = functional.linear(x, self.read.weight, self.read.bias).relu()
        return self.head(self.two(self.one(x).relu()).mean(1))


@pytest.fixture(scope="module")
def case():
    torch.manual_seed(0)
    net, x = Everything().eval(), torch.randn(48, 1, 6, 6)
    layers = describe(net, (1, 6, 6))
    assert not account(net, layers, (1, 6, 6)).left
    with torch.no_grad():
        seen = observe(net, layers, x, torch_rng(0))
        model = QModel(net, layers, schemes.get("mse")(), seen).eval()
        model.fix(Policy.uniform(layers, 4, 8))
        graph = traced(model, (1, 6, 6))
    return model, graph, TensorSplit(x, torch.randint(4, (48,)))


@pytest.mark.parametrize(("weight", "act"), [(8, 8), (3, 8), (4, 4)])
def test_the_file_computes_what_is_scored(case, weight, act):
    model, graph, split = case
    copied = type(graph)()
    copied.CopyFrom(graph)
    with torch.no_grad():
        model.fix(Policy.uniform(model.layers, weight, act))
        verdict = verify(model, to_qdq(copied, exported_layers(model), Integers.NONE), split)
    assert verdict.ok, verdict.text()
