"""Layers that are called several times, and weights that are used in unusual ways."""

import copy

import numpy as np
import torch
from onnx import numpy_helper
from torch import nn
from torch.nn import functional

from benchmarks.export.verify import verify
from frameworks import seeded
from frameworks.testing import toy

VALID = toy.split("valid", 64)


class Twice(nn.Module):
    """One convolution is called two times, at two sizes."""

    def __init__(self):
        super().__init__()
        self.first, self.shared = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.fc = nn.Linear(8, 4)

    def forward(self, x):
        x = functional.relu(self.shared(functional.relu(self.first(x))))
        x = functional.relu(self.shared(functional.max_pool2d(x, 2)))
        return self.fc(x.mean((2, 3)))


class Upwards(nn.Conv2d):
    """A transposed convolution whose weight has the output channels first."""

    def forward(self, x):
        return functional.conv_transpose2d(x, self.weight.transpose(0, 1), self.bias, stride=2)


class Transposed(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.up = nn.Conv2d(3, 8, 3, stride=2), Upwards(8, 6, 2)
        self.last, self.fc = nn.Conv2d(6, 8, 3), nn.Linear(8, 4)

    def forward(self, x):
        x = functional.relu(self.up(functional.relu(self.first(x))))
        return self.fc(functional.relu(self.last(x)).mean((2, 3)))


def test_every_call_is_compared(make_case):
    with seeded(0, "net"):
        case = make_case(Twice().eval())
    model, made = case.written(case.uniform(4))
    verdict = verify(model, made, VALID)
    assert verdict.ok, verdict
    # The file's second call has another weight, as if its constant had been mixed up.
    wrong = copy.deepcopy(made)
    second = [n for n in wrong.graph.node if n.op_type == "Conv" and "layer shared" in n.name][1]
    weights = next(n for n in wrong.graph.node if n.output[0] == second.input[1])
    old = next(t for t in wrong.graph.initializer if t.name == weights.input[1])
    scale = numpy_helper.to_array(old) * np.float32(1.02)
    wrong.graph.initializer.append(numpy_helper.from_array(scale, "other.scale"))
    weights.input[1] = "other.scale"
    assert [f for f in verify(model, wrong, VALID).faults if f.startswith("layer fc")]


def test_a_transposed_convolution_is_right_or_found_out(make_case):
    with seeded(0, "net"):
        case = make_case(Transposed().eval())
    for bits in (8, 4, 3):
        model, made = case.written(case.uniform(bits))
        with torch.no_grad():
            assert verify(model, made, VALID).ok
        wrong = copy.deepcopy(made)
        tensor = next(t for t in wrong.graph.initializer if t.name == "up.scale")
        value = numpy_helper.to_array(tensor) * np.float32(1.02)
        tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
        faults = verify(model, wrong, VALID).faults
        assert [line for line in faults if line.startswith("layer last")]
