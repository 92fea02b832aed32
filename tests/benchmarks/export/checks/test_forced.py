"""Layers that are called several times, and weights that are used in unusual ways."""

import copy

import numpy as np
import pytest
import torch
from onnx import numpy_helper
from torch import nn
from torch.nn import functional

from benchmarks.export.checks.forced import shared_ends
from benchmarks.export.formats.qdq import to_qdq
from benchmarks.export.graphs.codes import exported_layers
from benchmarks.export.verify import verify
from frameworks import Grid, seeded
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


class Clipped(nn.Module):
    """A ReLU6 that much of what goes into it exceeds."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.fc = nn.Linear(8, 4)

    def forward(self, x):
        x = functional.relu6(20 * self.first(x))
        return self.fc(functional.relu(self.second(x)).mean((2, 3)))


@pytest.mark.parametrize("top", [5.9, 6.0, 6.006])
def test_a_relu6_within_the_last_code_needs_no_clip_in_the_file(top, make_case):
    """At 6.006 it is below the grid's end, and the file's value is not: both are the last code."""
    with seeded(0, "net"):
        case = make_case(Clipped().eval())
    model = case.at(case.uniform(8), "minmax")
    model.qlayer("second").act_quantizer.step.fill_(top / 255)
    made = to_qdq(copy.deepcopy(case.graph), exported_layers(model))
    assert not [n for n in made.graph.node if n.op_type == "Clip" and n.output[0] == "hardtanh"]
    verdict = verify(model, made, VALID)
    assert verdict.ok, verdict
    wrong = copy.deepcopy(made)
    tensor = next(t for t in wrong.graph.initializer if t.name == "first.scale")
    value = numpy_helper.to_array(tensor) * np.float32(1.01)
    tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
    assert not verify(model, wrong, VALID).ok


@pytest.mark.parametrize(
    ("values", "ends"),
    [
        ([0.0, 2.0], (0.0, 3.0)),  # nothing reaches the last code, so that all of it counts
        ([0.0, 2.7], (0.0, 2.7)),  # 2.7 is the last code, and what is beyond it is it, too
        ([-4.0, 9.0], (0.0, 3.0)),
        ([0.4, 2.0], (0.4, 3.0)),
        ([0.6, 2.0], (0.0, 3.0)),
    ],
)
def test_beyond_a_value_of_the_last_code_nothing_counts(values, ends):
    assert shared_ends(np.array(values), Grid(1.0, 0, 3, 0.0)) == pytest.approx(ends)
