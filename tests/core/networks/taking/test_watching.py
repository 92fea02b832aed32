"""Watching passes costs no compiler, and compiled parts of a network are no trouble."""

import subprocess
import sys

import torch
from torch import nn

from frameworks import QModel, describe, observe, schemes, torch_rng
from tests.end_to_end.commands import ROOT

SHAPE = (1, 8, 8)
WRAPPED = """
import sys, torch
from torch import nn
from frameworks import QModel, account, describe, observe, schemes, torch_rng
net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(144, 3)).eval()
layers, x = describe(net, (1, 8, 8)), torch.rand(4, 1, 8, 8)
account(net, layers, (1, 8, 8))
QModel(net, layers, schemes.get("minmax")(), observe(net, layers, x, torch_rng(0, "x")))
assert "torch._dynamo" not in sys.modules
"""


def test_wrapping_a_network_does_not_load_the_compiler():
    subprocess.run([sys.executable, "-c", WRAPPED], check=True, cwd=ROOT)


class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Conv2d(1, 4, 3), nn.Linear(4, 3)

    def body(self, x):
        return self.first(x).relu().mean((2, 3))

    def forward(self, x):
        return self.last(self.body(x))


class Compiled(Plain):
    body = torch.compile(Plain.body, backend="eager")


def test_compiled_parts_are_wrapped_like_others():
    outputs = []
    for kind in (Plain, Compiled):
        torch.manual_seed(0)
        net, x = kind().eval(), torch.rand(4, *SHAPE)
        layers = describe(net, SHAPE)
        taken = observe(net, layers, x, torch_rng(0, "x"))
        quantized = QModel(net, layers, schemes.get("minmax")(), taken).eval()
        outputs.append(quantized(x))
    assert torch.equal(*outputs)
