"""Formats, integers, bits and kinds of layers: what is written runs and is right, or is refused."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from benchmarks.export.change import change
from benchmarks.export.form import Form
from benchmarks.export.formats.integers import Integers
from benchmarks.export.formats.qdq import to_qdq
from benchmarks.export.formats.qonnx import runnable, to_qonnx
from benchmarks.export.graphs.codes import exported_layers
from benchmarks.export.graphs.errors import UnsupportedExport
from benchmarks.export.outputs import altered, with_quantized_outputs
from benchmarks.export.verify import verify
from frameworks import Policy, TensorSplit, seeded
from frameworks.testing import toy

IMAGES = toy.split("valid", 24).x
SPLIT = TensorSplit(IMAGES, torch.zeros(len(IMAGES)))
WIDTHS = (1, 2, 3, 4, 5, 6, 7, 8, 16, 32)
PAIRS = [(1, 1), (2, 4), (4, 4), (4, 8), (8, 8), (8, 16), (8, 32), (32, 8)]
EVERY = [(w, a) for w in WIDTHS for a in (0, *WIDTHS)]


class Convolutions(nn.Module):
    """A convolution straight to the next one's quantizer, BatchNorm, a sum, a pool, a ReLU6."""

    def __init__(self, kind):
        super().__init__()
        conv, norm = (nn.Conv1d, nn.BatchNorm1d) if kind == "1d" else (nn.Conv2d, nn.BatchNorm2d)
        groups = {"depthwise": 8, "grouped": 2}.get(kind, 1)
        self.flat = kind == "1d"
        self.first, self.second = conv(3, 8, 3, padding=1), conv(8, 8, 3, padding=1, groups=groups)
        self.norm, self.third, self.fourth = norm(8), conv(8, 8, 1), conv(8, 8, 3, padding=1)
        self.fc = nn.Linear(8, 4)

    def forward(self, x):
        x = functional.relu(self.first(x.flatten(2) if self.flat else x))
        y = self.third(functional.relu(self.norm(self.second(x)))) + x
        y = (functional.max_pool1d if self.flat else functional.max_pool2d)(functional.relu(y), 2)
        return self.fc(functional.relu6(self.fourth(y)).flatten(2).mean(2))


class Tokens(nn.Module):
    """Linear layers on tokens and on vectors, with ReLU and without, and without a bias."""

    def __init__(self):
        super().__init__()
        self.patch = nn.Conv2d(3, 8, 2, 2)
        self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8, bias=False)
        self.mixed, self.hidden, self.out = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = x + self.down(functional.relu(self.up(x)))
        x = functional.relu(self.mixed(x)).mean(1)
        return self.out(functional.relu(self.hidden(x)))


KINDS = [
    "conv",
    *(
        pytest.param(kind, marks=pytest.mark.slow)
        for kind in ("tokens", "depthwise", "grouped", "1d")
    ),
]


@pytest.fixture(scope="module", params=KINDS)
def case(request, make_case_of):
    with seeded(0, "net"):
        network = Tokens() if request.param == "tokens" else Convolutions(request.param)
        with torch.no_grad():
            network.train()(IMAGES)
    return make_case_of(network.eval(), toy.SHAPE, IMAGES, flipped=True)


def policies(layers, pairs):
    """Uniform bits, the same between ends of 8 bits, and channels of different bits."""
    ends = (layers[0].name, layers[-1].name)
    for weight, act in pairs:
        yield Policy.uniform(layers, weight, act)
        yield Policy({x.name: (8, 8) if x.name in ends else (weight, act) for x in layers})
    mixed = (0, 1, 2, 4, 8, 3)
    for s in range(3):
        bits = [tuple(mixed[(c + s) % 6] for c in range(x.out_channels)) for x in layers]
        acts = [(8, 4, 8, 5)[(i + s) % 4] for i in range(len(layers))]
        names = [x.name for x in layers]
        yield Policy(dict(zip(names, zip(bits, acts, strict=True), strict=True)))


def judged(case, model, integers):
    """The comparison of a form's file with its network; outputs may be refused by name."""
    form, graph = Form(integers=integers), copy.deepcopy(case.graph)
    made = to_qdq(graph, exported_layers(model), integers)
    allowed = form.tolerance(made)
    verdict = verify(model, made, SPLIT, allowed.tie, allowed.moved)
    if not verdict.ok or integers != Integers.OUTPUTS:
        return verdict
    try:
        whole = with_quantized_outputs(made, IMAGES)
    except UnsupportedExport:
        return verdict
    assert altered(made, whole) == []
    return change(model, whole, SPLIT)


def check(case, pairs):
    for policy in policies(case.layers, pairs):
        model = case.at(policy, "minmax")
        for integers in Integers:
            verdict = judged(case, model, integers)
            assert verdict.ok, (policy, integers, verdict)
        made = runnable(to_qonnx(copy.deepcopy(case.graph), exported_layers(model)))
        verdict = verify(model, made, SPLIT)
        assert verdict.ok, (policy, "qonnx", verdict)


def test_some_bits_in_every_form(case):
    check(case, PAIRS)


@pytest.mark.slow
def test_all_bits_in_every_form(case):
    check(case, EVERY)
