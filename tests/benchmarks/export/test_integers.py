"""What ONNX Runtime runs in integers, and what that changes."""

import copy

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, numpy_helper
from torch import nn
from torch.nn import functional

from benchmarks.export.change import Change, Twice, change
from benchmarks.export.checks.ties import INTEGER_TIE, Tolerance
from benchmarks.export.form import Form
from benchmarks.export.formats.affine import Affine
from benchmarks.export.formats.integers import Integers, bias_units, filled
from benchmarks.export.formats.qdq import to_qdq
from benchmarks.export.graphs.codes import exported_layers
from benchmarks.export.graphs.errors import UnsupportedExport
from benchmarks.export.graphs.runtime import outputs, session
from benchmarks.export.outputs import with_quantized_outputs
from benchmarks.export.verify import verify
from frameworks import Grid, Policy, seeded
from frameworks.testing import toy

VALID = toy.split("valid", 128)


def rounded(x, low, high):
    """The 8-bit affine grid of [min(low, 0), max(high, 0)], written out."""
    low, high = min(low, 0.0), max(high, 0.0)
    step = (high - low) / 255
    zero = round(-low / step)
    return ((x / step).round() + zero).clamp(0, 255).sub(zero).mul(step)


def constants(made):
    return {t.name: numpy_helper.to_array(t) for t in made.graph.initializer}


class Oracle:
    """A network written out with the extra quantizers; their ranges come from a first pass."""

    def __init__(self, model, images, forward):
        self.net, self.forward, self.ends = model.model, forward, {}
        self.observing = True
        self(images)
        self.observing = False

    @torch.no_grad()
    def __call__(self, x):
        return self.forward(self.net, x, self).numpy()

    def output(self, name, x):
        if self.observing:
            self.ends[name] = float(x.min()), float(x.max())
            return x
        return rounded(x, *self.ends[name])

    def served(self, name, x, layer):
        """A layer's input that others read, too: at 8 bits its own quantizer serves them."""
        if layer.bits.act < 8:
            return (self.output(name, x),) * 2
        return x, x if self.observing else layer.act_quantizer(x)


class Mixed(nn.Module):
    """Grouped, strided, padded and pointwise convolutions, one of which stays in float."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.grouped = nn.Conv2d(8, 8, 3, padding=1, groups=2, bias=False)
        self.left = nn.Conv2d(8, 8, 1, stride=2, bias=False)
        self.right = nn.Conv2d(8, 8, 3, stride=2, padding=1, bias=False)
        self.free = nn.Conv2d(8, 8, 3, padding=1)
        self.fc = nn.Linear(8, 4)

    def forward(self, x):
        x = self.first(x)
        x = functional.relu6(self.grouped(x) + x)
        x = functional.relu(self.left(x) + self.right(x))
        return self.fc(functional.relu(self.free(x)).mean((2, 3)))


def written_out(net, x, oracle):
    x, shortcut = oracle.served("first", net.first(x), net.grouped)
    x = functional.relu6(oracle.output("grouped", net.grouped(x)) + shortcut)
    # One quantizer of 8 bits that both layers share is enough.
    grids = {layer.act_quantizer.uniform_grid() for layer in (net.left, net.right)}
    if len(grids) > 1:
        x = oracle.output("joined", x)
    x = functional.relu(oracle.output("left", net.left(x)) + oracle.output("right", net.right(x)))
    return net.fc(functional.relu(net.free(x)).mean((2, 3)))


@pytest.fixture(scope="module")
def mixed(make_case):
    with seeded(0, "net"):
        return make_case(Mixed().eval())


def but_free(case, weight, act):
    bits = {x.name: (weight, act) for x in case.layers}
    return Policy({**bits, "free": (32, 32)})


@pytest.mark.parametrize("bits", [(8, 8), (8, 5), (6, 6), (4, 8), (4, 4), (3, 3), (1, 2)])
def test_the_file_is_the_network_written_out(bits, mixed, kernels):
    """Residual sums, zero points under padding, groups, strides, fewer bits, a float layer."""
    model, made = mixed.written(but_free(mixed, *bits), Integers.OUTPUTS)
    made = with_quantized_outputs(made, mixed.images)
    onnx.checker.check_model(made, full_check=True)
    kinds = kernels(made)
    assert kinds.count("QLinearConv") == 4
    assert "QLinearAdd" in kinds
    assert "MatMulIntegerToFloat" in kinds
    assert constants(made)["first.act.zero_point"] > 0
    theirs = outputs(session(made), VALID.x)[0]
    off = np.abs(theirs - Oracle(model, mixed.images, written_out)(VALID.x)).max(1)
    assert (off < 1e-6).mean() > 0.95
    with torch.no_grad():
        changed = np.abs(theirs - model(VALID.x).numpy()).max(1)
    assert changed.max() > 1e-4
    assert change(model, made, VALID).ok


@pytest.mark.parametrize("bits", [8, 4])
def test_a_relu6_before_a_narrower_grid_is_not_in_the_way(bits, mixed, kernels):
    """Under minmax both layers behind it have the same grid, which is within 0 .. 6."""
    model, plain = mixed.written(mixed.uniform(bits), Integers.OUTPUTS, "minmax")
    assert not [n for n in plain.graph.node if n.op_type == "Clip" and n.input[0] == "add"]
    made = with_quantized_outputs(plain, mixed.images)
    assert kernels(made).count("QLinearAdd") >= 1
    assert change(model, made, VALID).ok
    wide = mixed.at(mixed.uniform(bits), "minmax")
    for layer in (wide.qlayer("left"), wide.qlayer("right")):
        layer.act_quantizer.step *= 20
    kept = to_qdq(copy.deepcopy(mixed.graph), exported_layers(wide), Integers.OUTPUTS)
    assert [n for n in kept.graph.node if n.op_type == "Clip" and n.input[0] == "add"]


@pytest.mark.parametrize("bits", [8, 6, 4, 3, 2])
def test_folded_batchnorm_and_depthwise_layers_run_in_integers(bits, conv, kernels):
    model, plain = conv.written(conv.uniform(bits), Integers.OUTPUTS)
    verdict = verify(model, plain, VALID, INTEGER_TIE)
    assert verdict.ok, verdict
    made = with_quantized_outputs(plain, conv.images)
    kinds = kernels(made)
    # -128 has no negative, which a layer with a negative BatchNorm factor may need.
    turned = {n for n in constants(plain) if n.endswith(".sign")}
    assert kinds.count("QLinearConv") == 5 - len(turned) >= 4
    assert not {"Conv", "FusedConv"} & set(kinds) or turned
    assert kinds.count("QLinearAdd") == 1
    result = change(model, made, VALID)
    assert result.ok, result
    assert result.images == 128


def test_a_trained_resnet8_keeps_its_accuracy(resnet8, digits, kernels):
    model, made = resnet8.written(resnet8.uniform(8), Integers.OUTPUTS)
    made = with_quantized_outputs(made, resnet8.images)
    kinds = kernels(made)
    assert kinds.count("QLinearConv") == len(resnet8.layers) - 1
    result = change(model, made, digits.splits.test)
    assert result.ok, result
    assert result.equal > 0.98 * result.images
    assert abs(result.accuracy[0] - result.accuracy[1]) < 1


def test_the_16_bits_of_a_policy_are_not_lost(mixed):
    """The grid that two layers read in 16 and in 8 bits gets no third one of 8 bits."""
    bits = {x.name: (8, 8) for x in mixed.layers}
    policy = Policy({**bits, "left": (8, 16)})
    made = mixed.written(policy, Integers.OUTPUTS, "minmax")[1]
    own = {n.input[0] for n in with_quantized_outputs(made, mixed.images).graph.node
           if n.output[0].endswith(".out.code")}  # fmt: skip
    read = {n.input[1]: n.input[0] for n in made.graph.node if n.op_type == "QuantizeLinear"}
    assert read["left.act.scale"] == read["right.act.scale"]
    assert own
    assert read["left.act.scale"] not in own


@pytest.mark.parametrize("bits", [16, 32])
def test_nothing_in_integers_is_refused(bits, conv):
    made = conv.written(conv.uniform(bits), Integers.OUTPUTS)[1]
    with pytest.raises(UnsupportedExport, match="no convolution of this policy can run in integ"):
        with_quantized_outputs(made, conv.images)


def test_biases_are_integers_only_where_the_output_is_quantized(conv, kernels):
    """In the toy network behind conv1 and the depthwise layer; the others get float kernels."""
    model, made = conv.written(conv.uniform(8), Integers.BIAS)
    verdict = verify(model, made, VALID, INTEGER_TIE)
    assert verdict.ok, verdict
    biases = {t.name for t in made.graph.initializer if t.data_type == TensorProto.INT32}
    turned = {n.replace(".sign", ".bias") for n in constants(made) if n.endswith(".sign")}
    assert biases == {"blocks.0.conv1.bias", "blocks.1.depthwise.bias"} - turned
    assert len(turned) < 2
    kinds = kernels(made)
    assert kinds.count("QLinearConv") == len(biases)
    # What is dequantized are activations: weights are floats when the file is loaded.
    quantizers = sum(n.op_type == "QuantizeLinear" for n in made.graph.node)
    assert kinds.count("DequantizeLinear") <= quantizers


def test_a_classifier_runs_in_integers_in_every_form(conv, kernels):
    for integers in Integers:
        made = conv.written(conv.uniform(8), integers)[1]
        assert "MatMulIntegerToFloat" in kernels(made), integers
        made = conv.written(conv.uniform(32), integers)[1]
        assert "Gemm" in kernels(made), integers


def test_layers_share_the_codes_of_a_value_on_the_same_grid(mixed):
    """Minmax gives both readers of a value the same grid."""
    model, made = mixed.written(mixed.uniform(8), scheme="minmax")
    assert sum(n.op_type == "QuantizeLinear" for n in made.graph.node) == len(mixed.layers) - 1
    verdict = verify(model, made, VALID)
    assert verdict.ok, verdict


def test_codes_that_fill_eight_bits_have_the_same_values():
    """By hand: 3 takes a factor of 32 (96), -8 of 8 (-64), 127 and nothing at all their own."""
    code = np.array([[3.0, -1.0], [-8.0, 7.0], [127.0, 0.0], [0.0, 0.0]])
    scale = np.array([0.5, 0.25, 1.0, 2.0], np.float32)
    made = filled(Affine(code, scale, -8, 7, 0))
    assert made.code[:3].tolist() == [[96, -32], [-64, 56], [127, 0]]
    assert made.scale[:3].tolist() == [0.5 / 32, 0.25 / 8, 1.0]
    assert np.array_equal(made.code * made.scale[:, None], code * scale[:, None])
    assert (made.low, made.high, made.bits) == (-128, 127, 8)


def test_a_bias_in_units_of_both_scales():
    """By hand: 1 / (0.5 * 0.25) = 8, and -0.3 / (0.1 * 0.25) = -12."""
    weights = Affine(np.zeros((2, 1)), np.array([0.5, 0.1], np.float32), -128, 127, 8)
    units = bias_units(weights, Grid(0.25, 0, 255, 0.0), np.array([1.0, -0.3]))
    assert units.tolist() == [8, -12]
    assert bias_units(weights, Grid(1e-12, 0, 255, 0.0), np.array([1.0, 1.0])) is None


def test_integers_that_compute_something_else_are_found_out(mixed):
    """Here the integer side has another weight, as if its sums had saturated."""
    made = mixed.written(mixed.uniform(8), Integers.OUTPUTS)[1]
    made = with_quantized_outputs(made, mixed.images)
    wrong = copy.deepcopy(made)
    tensor = next(t for t in wrong.graph.initializer if t.name == "right.codes")
    halved = numpy_helper.to_array(tensor) // 2
    tensor.CopyFrom(numpy_helper.from_array(halved, tensor.name))
    twice, other = Twice(made, Tolerance()), Twice(wrong, Tolerance())
    twice.compare(VALID.x)
    assert twice.faults == {}
    twice.whole = other.whole
    twice.compare(VALID.x)
    assert len(twice.faults) == 1, twice.faults
    faults = ("value add_1: 9 of 90 differ",)
    text = Change(128, 100, (90.0, 80.0), 0.1, 28, 0.2, 0, 3, faults).text()
    assert "the integers are not what the file says:\nvalue add_1: 9 of 90 differ" in text
    assert "accuracy 80.00 % (fake-quantized: 90.00 %)" in text


class Moved(nn.Module):
    """Two layers with something between them that moves or picks values, and nothing more."""

    def __init__(self, between):
        super().__init__()
        flat = between == "flatten"
        self.a = nn.Conv2d(3, 8, 3, padding=1)
        self.b = nn.Conv2d(8, 8, 3, padding=1) if between == "pool" else None
        self.fc = nn.Linear(8 * toy.SHAPE[1] * toy.SHAPE[2] if flat else 8, 8)
        self.out = nn.Linear(8, 4)
        self.between = between

    def forward(self, x):
        x = torch.relu(self.a(x))
        if self.between == "pool":
            x = torch.relu(self.b(functional.max_pool2d(x, 2))).mean((2, 3))
        elif self.between == "flatten":
            x = x.flatten(1)
        else:
            x = x.flatten(2).transpose(1, 2)
        x = torch.relu(self.fc(x))
        return self.out(x.mean(1) if self.between == "tokens" else x)


@pytest.mark.parametrize("between", ["pool", "flatten", "tokens"])
def test_a_quantizer_that_is_moved_over_something_rounds_no_float_weights(between, make_case_of):
    """ONNX Runtime would round those of the layer before it by itself."""
    with seeded(1, "net"):
        case = make_case_of(Moved(between).eval(), toy.SHAPE, VALID.x[:48])
    model, made = case.written(case.uniform(8), Integers.BIAS)
    allowed = Form(integers=Integers.BIAS).tolerance(made)
    verdict = verify(model, made, VALID, allowed.tie, allowed.moved)
    assert verdict.ok, verdict.text()
