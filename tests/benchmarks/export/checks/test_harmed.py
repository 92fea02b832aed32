"""Every layer's weights, a bias and a scale are harmed in turn, and every file is found out."""

import copy

import numpy as np
import onnx
import pytest
import timm
import torch
from onnx import numpy_helper

from benchmarks.export.form import Form, Written
from benchmarks.export.formats.integers import Integers
from benchmarks.export.formats.qdq import to_qdq
from benchmarks.export.formats.qonnx import runnable, to_qonnx
from benchmarks.export.graphs.bitstream import pack
from benchmarks.export.graphs.codes import exported_layers
from benchmarks.export.outputs import altered, with_quantized_outputs
from benchmarks.export.verify import verify
from frameworks import Policy, TensorSplit, reestimate_batchnorm, seeded, torch_rng
from frameworks.testing import toy

BITS = (8, 2, 3, 4, 5, 6)
DRAW = np.random.default_rng(0)


def shuffled(codes, low, high):
    return DRAW.permutation(codes.flatten()).reshape(codes.shape)


def negated(codes, low, high):
    return np.clip(low + high - codes, low, high)


def some_off(codes, low, high):
    """Every seventh code by one: one alone may be of a channel that a ReLU keeps at 0."""
    moved = codes.copy()
    part = moved.reshape(-1)[::7]
    part += np.where(part < high, 1, -1).astype(part.dtype)
    return moved


def harmed(made, name, harm):
    """A copy of a file with other weights in a layer, or another constant of that name."""
    wrong = copy.deepcopy(made)
    tensor = next(t for t in wrong.graph.initializer if t.name in (name, f"{name}.codes"))
    value = numpy_helper.to_array(tensor)
    four = tensor.data_type == onnx.TensorProto.INT4
    if value.dtype == np.float32:
        changed = harm(value, value.min(), value.max())
    else:
        ends = (-8, 7) if four else (np.iinfo(value.dtype).min, np.iinfo(value.dtype).max)
        changed = harm(value.astype(int), *ends)
    assert (changed != value.astype(changed.dtype)).any(), name
    if four:
        tensor.raw_data = pack(changed.flatten() & 15, np.full(changed.size, 4)).tobytes()
    else:
        tensor.CopyFrom(numpy_helper.from_array(changed.astype(value.dtype), tensor.name))
    return wrong


def images(count, size):
    x = torch.randn(count, 3, size // 8, size // 8, generator=torch_rng(0, "images"))
    x = torch.nn.functional.interpolate(x, scale_factor=8, mode="bilinear")
    return x + 0.2 * torch.randn(x.shape, generator=torch_rng(0, "noise"))


def policy_of(layers):
    return Policy({x.name: (BITS[i % 6], BITS[i * 5 % 6]) for i, x in enumerate(layers)})


@pytest.fixture(scope="module")
def large(make_case_of):
    """The toy network at 224 px, with BatchNorm's statistics of its images."""
    with seeded(0, "net"):
        network = toy.ToyConvNet().eval()
    x = images(4, 224)
    reestimate_batchnorm(network, x)
    return make_case_of(network, (3, 224, 224), x)


@pytest.mark.parametrize(
    "harm", [shuffled, *(pytest.param(x, marks=pytest.mark.slow) for x in (negated, some_off))]
)
def test_each_layers_weights_at_224_px(harm, large):
    model, made = large.written(policy_of(large.layers))
    split = TensorSplit(large.images, torch.zeros(len(large.images)))
    whole = verify(model, made, split)
    assert whole.ok, whole
    for layer in large.layers:
        assert not verify(model, harmed(made, layer.name, harm), split).ok, layer.name


def test_ties_do_not_hide_errors_behind_them(large):
    """At 8 bits every image has a tie, and before the last layer, too."""
    model, made = large.written(large.uniform(8))
    split = TensorSplit(large.images, torch.zeros(len(large.images)))
    whole = verify(model, made, split)
    assert whole.ok, whole
    assert whole.tied > 0
    for layer in large.layers:
        verdict = verify(model, harmed(made, layer.name, shuffled), split)
        assert not verdict.ok, layer.name
        assert verdict.faults, layer.name


@pytest.mark.parametrize("suffix", ["shift", "scale", "act.scale"])
def test_a_bias_and_a_scale_of_each_layer(suffix, large):
    """A percent of a scale; of a bias two percent of its layer's largest, in one channel."""
    model, made = large.written(policy_of(large.layers))
    split = TensorSplit(large.images, torch.zeros(len(large.images)))

    def bent(value, low, high):
        if suffix != "shift":
            return value * np.float32(1.01)
        moved = value.copy()
        moved.flat[np.abs(value).argmax()] += 0.02 * np.abs(value).max()
        return moved

    names = {t.name for t in made.graph.initializer}
    found = [f"{x.name}.{suffix}" for x in large.layers if f"{x.name}.{suffix}" in names]
    assert len(found) >= len(large.layers) - 1
    for name in found:
        assert not verify(model, harmed(made, name, bent), split).ok, name


def test_other_forms(conv):
    """QONNX, rounded biases, and a file with quantized outputs of which only the codes differ."""
    policy, split = policy_of(conv.layers), toy.split("valid", 64)
    model = conv.at(policy, "lsq")
    made = to_qonnx(copy.deepcopy(conv.graph), exported_layers(model))
    for layer in conv.layers:
        wrong = harmed(made, f"{layer.name}.value", shuffled)
        assert not verify(model, runnable(wrong), split).ok, layer.name
    model = conv.at(conv.uniform(8))
    made = to_qdq(copy.deepcopy(conv.graph), exported_layers(model), Integers.BIAS)
    for layer in conv.layers:
        wrong = harmed(made, layer.name, shuffled)
        assert not verify(model, wrong, split, 0.1).ok, layer.name


def test_quantized_outputs(conv, tmp_path, capsys):
    model, plain = conv.written(conv.uniform(4), Integers.OUTPUTS)
    made = with_quantized_outputs(plain, conv.images)
    assert altered(plain, made) == []
    form, split = Form(integers=Integers.OUTPUTS), toy.split("valid", 64)
    path = tmp_path / "a.onnx"
    onnx.save(made, path)
    assert form.check(path, model, Written(made, plain), split)
    for layer in conv.layers:
        wrong = harmed(made, layer.name, some_off)
        assert altered(plain, wrong) == [f"{layer.name}.codes"]
        onnx.save(wrong, path)
        assert not form.check(path, model, Written(made, plain), split), layer.name
        assert f"quantizers aside: {layer.name}.codes" in capsys.readouterr().out
    # The codes are right, but one quantizer has another input.
    rewired = copy.deepcopy(made)
    node = next(n for n in rewired.graph.node if n.op_type == "Relu")
    node.op_type = "Identity"
    assert altered(plain, rewired) == [node.output[0]]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite(value, conv):
    model, made = conv.written(conv.uniform(4))
    wrong = harmed(made, "fc.minus", lambda x, *_: np.full_like(x, value))
    verdict = verify(model, wrong, toy.split("valid", 32))
    assert "logits: has values that are not finite" in verdict.faults
    assert "the logits: some are not finite" in verdict.text()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["test_efficientnet", "test_resnet"])
def test_each_layer_of_whole_networks_at_224_px(name, make_case_of):
    with seeded(0, name):
        network = timm.create_model(name, num_classes=20).eval()
        for norm in network.modules():
            if isinstance(norm, torch.nn.BatchNorm2d):
                # Some are 0 at first, which leaves nothing to be harmed.
                torch.nn.init.uniform_(norm.weight, 0.5, 1.5)
    x = images(4, 224)
    reestimate_batchnorm(network, x)
    case = make_case_of(network, (3, 224, 224), x)
    split = TensorSplit(x, torch.zeros(len(x)))
    for policy in (case.uniform(8), policy_of(case.layers)):
        model, made = case.written(policy)
        whole = verify(model, made, split)
        assert whole.ok, whole
        for layer in case.layers:
            for harm in (shuffled, negated):
                assert not verify(model, harmed(made, layer.name, harm), split).ok, layer.name
