"""One layer in several places of a network: each call has its own BatchNorm, bias and form."""

import copy

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn
from torch.nn import functional

from benchmarks.export.change import change
from benchmarks.export.form import Form
from benchmarks.export.formats.integers import Integers
from benchmarks.export.formats.qonnx import runnable, to_qonnx
from benchmarks.export.graphs.codes import exported_layers
from benchmarks.export.graphs.graph import Graph
from benchmarks.export.graphs.runtime import outputs, session
from benchmarks.export.outputs import altered, rounded_biases, with_quantized_outputs
from benchmarks.export.verify import verify
from frameworks import TensorSplit, seeded
from frameworks.testing import toy

IMAGES = toy.split("valid", 48).x
SPLIT = TensorSplit(IMAGES, torch.zeros(len(IMAGES)))
CLASSES = 3


class Heads(nn.Module):
    """Two heads share a convolution; each has a BatchNorm of its own behind it, if any.

    Args:
        norms: the factors of either's channels; None: there is no BatchNorm.
        last: whether the second head has another convolution, as the first one has.
        scale: of the second head's input.
    """

    def __init__(self, norms, last=True, scale=1.0):
        super().__init__()
        self.first, self.shared = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.norms = nn.ModuleList(nn.Identity() if f is None else batchnorm(f) for f in norms)
        ends = [nn.Conv2d(8, 4, 1), nn.Conv2d(8, 4, 1) if last else nn.Identity()]
        self.ends, self.scale = nn.ModuleList(ends), scale
        self.out = nn.ModuleList(nn.Linear(4 if end else 8, CLASSES) for end in (True, last))

    def forward(self, x):
        x = functional.relu(self.first(x))
        inputs = (x, self.scale * functional.max_pool2d(x, 2))
        made = []
        for given, norm, end, out in zip(inputs, self.norms, self.ends, self.out, strict=True):
            y = end(functional.relu(norm(self.shared(given))))
            made.append(out(functional.relu(y).mean((2, 3))))
        return torch.cat(made, 1)


def batchnorm(factors):
    made = nn.BatchNorm2d(8)
    with torch.no_grad():
        made.weight.copy_(torch.tensor(factors))
        made.bias.normal_()
        made.running_mean.normal_(0, 0.1)
        made.running_var.uniform_(0.1, 0.4)
    return made


UP, DOWN = [0.3 + 0.2 * i for i in range(8)], [1.9 - 0.2 * i for i in range(8)]
NETWORKS = {
    "none": {"norms": (None, None)},
    "one": {"norms": (UP, None)},
    "two": {"norms": (UP, DOWN)},
    "signs": {"norms": (UP, [-1.0, 0.0, *DOWN[2:]])},
    "float behind one": {"norms": (None, None), "last": False},
    "float behind": {"norms": (UP, DOWN), "last": False},
    "smaller": {"norms": (None, None), "scale": 0.05},
    "larger": {"norms": (UP, DOWN), "scale": 3.0},
}


@pytest.fixture(scope="module")
def case_named(make_case_of):
    known = {}

    def made(name):
        if name not in known:
            with seeded(0, "net"):
                network = Heads(**NETWORKS[name])
            known[name] = make_case_of(network.eval(), toy.SHAPE, IMAGES)
        return known[name]

    return made


@pytest.mark.parametrize("integers", Integers)
@pytest.mark.parametrize("name", NETWORKS)
def test_each_call_of_a_shared_convolution_is_right(name, integers, case_named):
    """The logits of the first head come from the first call, the others from the second."""
    case = case_named(name)
    for bits in (8, 4, 2, 32):
        model, made = case.written(case.uniform(bits), integers)
        allowed = Form(integers=integers).tolerance(made)
        verdict = verify(model, made, SPLIT, allowed.tie, allowed.moved)
        assert verdict.ok, (bits, verdict.text())
        with torch.no_grad():
            ours = model(IMAGES).numpy()
        off = np.abs(outputs(session(made), IMAGES)[0] - ours)
        for head in (slice(0, CLASSES), slice(CLASSES, None)):
            # A code that is rounded to its neighbour moves a logit, which few of them show.
            assert np.median(off[:, head]) < 0.01 * ours[:, head].std(0).mean(), bits
        if integers == Integers.OUTPUTS and bits != 32:
            whole = with_quantized_outputs(made, IMAGES)
            assert altered(made, whole) == []
            assert change(model, whole, SPLIT).ok, bits


@pytest.mark.parametrize("name", ["two", "signs"])
def test_each_call_is_right_in_qonnx(name, case_named):
    case = case_named(name)
    model = case.at(case.uniform(4))
    made = to_qonnx(copy.deepcopy(case.graph), exported_layers(model))
    assert elements(made) == weights(case)
    assert verify(model, runnable(made), SPLIT).ok


def elements(made):
    """How many numbers a file has in tensors of weights' shapes."""
    return sum(int(np.prod(t.dims)) for t in made.graph.initializer if max([0, *t.dims[1:]]) > 1)


def weights(case):
    return sum(layer.params for layer in case.layers)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_shared_weight_is_in_the_file_once(name, case_named):
    """Also where BatchNorm turns some codes around, or one call alone runs in integers."""
    case = case_named(name)
    for bits in (8, 5, 4, 32):
        assert elements(case.written(case.uniform(bits))[1]) == weights(case), bits
    if name != "signs":
        for integers in (Integers.BIAS, Integers.OUTPUTS):
            for bits in (8, 4, 32):
                made = case.written(case.uniform(bits), integers)[1]
                assert elements(made) == weights(case), (integers, bits)


def test_biases_are_in_units_of_each_calls_scales(case_named):
    """Both calls run in integers: two biases, and two scales that are those of their weights."""
    case = case_named("two")
    made = case.written(case.uniform(8), Integers.BIAS)[1]
    kept = {t.name: numpy_helper.to_array(t) for t in made.graph.initializer}
    makers = {n.output[0]: n for n in made.graph.node}
    calls = [n for n in made.graph.node if n.op_type == "Conv" and "layer shared" in n.name]
    biases = [makers[n.input[2]].input for n in calls]
    assert len({code for code, _ in biases}) == len({scale for _, scale in biases}) == 2
    for node, (code, scale) in zip(calls, biases, strict=True):
        weight = makers[node.input[1]]
        assert kept[code].dtype == np.int32
        assert np.allclose(kept[scale], kept[weight.input[1]] * kept["shared.act.scale"], 1e-6)


def test_what_is_rounded_counts_at_each_call():
    """By hand: biases in units of 0.5 and at most 0.25, the first one at two calls."""
    scales = {"a": np.float32([0.5]), "b": np.float32([0.25, 0.125])}
    tensors = [numpy_helper.from_array(v, f"{k}.scale") for k, v in scales.items()]
    tensors += [numpy_helper.from_array(np.zeros(len(v), np.int32), k) for k, v in scales.items()]
    nodes = [helper.make_node("DequantizeLinear", [x, f"{x}.scale"], [f"{i}"], axis=0)
             for i, x in enumerate("aab")]  # fmt: skip
    model = helper.make_model(helper.make_graph(nodes, "g", [], [], tensors))
    assert rounded_biases(model) == 0.25 + 0.25 + 0.125


def test_a_name_stands_for_one_constant():
    """Another value, shape or type has another name, and what is the same is there once."""
    node = helper.make_node("Relu", ["x"], ["taken.2"])
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    own = numpy_helper.from_array(np.float32([7]), "scale")
    graph = Graph(helper.make_model(helper.make_graph([node], "g", [value], [], [own])))
    wanted = [
        (np.float32([1, 2]), None),
        (np.float32([1, 3]), None),
        (np.float32([[1, 2]]), None),
        (np.int8([1, 2]), None),
        (np.int8([1, 2]), TensorProto.INT4),
    ]
    names = [graph.keep("taken", value, kind) for value, kind in wanted]
    assert names == ["taken", "taken.3", "taken.4", "taken.5", "taken.6"]
    assert [graph.keep("taken", value, kind) for value, kind in wanted] == names
    assert graph.keep("scale", np.float32([1])) == "scale.2"
    kept = {t.name: numpy_helper.to_array(t) for t in graph.model.graph.initializer}
    assert len(kept) == len(graph.model.graph.initializer) == 1 + len(wanted) + 1
    for name, (array, _) in zip(names, wanted, strict=True):
        assert np.array_equal(kept[name].astype(array.dtype), array)
        assert kept[name].shape == array.shape
    assert kept["scale"] == 7


def test_a_result_has_a_name_of_its_own():
    node = helper.make_node("Relu", ["x"], ["y"])
    graph = Graph(helper.make_model(helper.make_graph([node], "g", [], [])))
    kept = graph.keep("y.bias", np.float32([1]))
    assert graph.add("Identity", [kept], "y.bias") == "y.bias.2"
    assert graph.keep("y.bias.2", np.float32([1])) == "y.bias.2.2"
    assert graph.add("Identity", ["y.bias.2"], "y") == "y"


class Names(nn.Module):
    """Layers that are called what torch calls the results of layers, and their parameters."""

    def __init__(self):
        super().__init__()
        self.conv2d, self.relu = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.conv2d_1, self.linear = nn.BatchNorm2d(8), nn.Linear(8, 4)

    def forward(self, x):
        x = functional.relu(self.conv2d(x))
        # This BatchNorm is folded into nothing, so that its parameters stay.
        x = functional.relu(self.conv2d_1(functional.relu(self.relu(x))))
        return self.linear(x.mean((2, 3)))


@pytest.mark.parametrize("integers", [Integers.NONE, Integers.BIAS])
def test_layers_may_be_called_as_values_are(integers, make_case_of):
    with seeded(0, "net"):
        case = make_case_of(Names().eval(), toy.SHAPE, IMAGES)
    model, made = case.written(case.uniform(8), integers)
    allowed = Form(integers=integers).tolerance(made)
    verdict = verify(model, made, SPLIT, allowed.tie, allowed.moved)
    assert verdict.ok, verdict.text()


class Read(nn.Module):
    """A square weight that a layer has, and that a function reads the other way round."""

    def __init__(self):
        super().__init__()
        self.first, self.square = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, 8)
        self.out = nn.Linear(8, 4)

    def forward(self, x):
        x = functional.relu(self.first(x)).mean((2, 3))
        return self.out(functional.relu(self.square(x)) @ self.square.weight)


def test_a_weight_that_is_read_both_ways_is_right_at_either(make_case_of):
    with seeded(0, "net"):
        case = make_case_of(Read().eval(), toy.SHAPE, IMAGES)
    for bits in (8, 4, 32):
        model, made = case.written(case.uniform(bits))
        onnx.checker.check_model(made, full_check=True)
        verdict = verify(model, made, SPLIT)
        assert verdict.ok, (bits, verdict.text())
