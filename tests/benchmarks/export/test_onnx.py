import copy

import numpy as np
import pytest
import torch
from onnx import TensorProto, numpy_helper

from benchmarks.export.change import change
from benchmarks.export.checks.ties import LOGITS, TIE
from benchmarks.export.formats.integers import Integers
from benchmarks.export.formats.qdq import to_qdq
from benchmarks.export.graphs.codes import exported_layers
from benchmarks.export.graphs.errors import UnsupportedExport
from benchmarks.export.graphs.runtime import outputs, session
from benchmarks.export.graphs.trace import traced
from benchmarks.export.outputs import with_quantized_outputs
from benchmarks.export.verify import verify
from benchmarks.models.build import ModelConfig, create
from frameworks import (
    Policy,
    QModel,
    TensorSplit,
    describe,
    observe,
    reestimate_batchnorm,
    schemes,
    torch_rng,
)
from frameworks.testing import toy

VALID = toy.split("valid", 128)


def constants(made):
    return {t.name: t for t in made.graph.initializer}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", ["conv", "vit"])
def test_onnx_runtime_computes_the_fake_quantized_network(name, seed, request):
    case = request.getfixturevalue(name)
    model, made = case.written(case.mixed(seed))
    verdict = verify(model, made, VALID)
    assert verdict.ok, verdict
    assert verdict.distance <= TIE
    assert verdict.images - verdict.equal <= verdict.tied <= 3
    if not verdict.moved:
        assert verdict.largest < 1e-4


@pytest.mark.parametrize("bits", [*range(1, 9), 32])
def test_every_width(bits, conv):
    model, made = conv.written(conv.uniform(bits))
    verdict = verify(model, made, VALID)
    assert verdict.ok, verdict
    kinds = {n.op_type for n in made.graph.node}
    assert "BatchNormalization" not in kinds
    assert ("Clip" in kinds) == (bits not in (8, 32))
    assert ("QuantizeLinear" in kinds) == (bits != 32)


@pytest.mark.parametrize("scheme", sorted(schemes.names()))
def test_every_scheme_is_exported_or_refused_by_name(scheme, conv):
    policy = conv.uniform(4)
    if scheme in ("adq", "autoq_binary", "bsq", "stochastic"):
        with pytest.raises(UnsupportedExport, match="layer stem: activations of"):
            conv.written(policy, scheme=scheme)
        return
    model, made = conv.written(policy, scheme=scheme)
    verdict = verify(model, made, VALID)
    assert verdict.ok, verdict


def test_the_codes_in_the_file_are_the_policys(conv):
    """Fold and flips aside, the integers are those of the quantizer, and so is their range."""
    model, made = conv.written(conv.uniform(3))
    kept = constants(made)
    for name, q in model.qlayers():
        codes = numpy_helper.to_array(kept[f"{name}.codes"]).astype(int)
        own = q.codes().code.numpy().astype(int)
        if name == "fc":
            assert np.array_equal(codes, own.T)
            continue
        for channel, (file, code) in enumerate(zip(codes, own, strict=True)):
            dead = channel == 1 and not file.any()
            assert dead or np.array_equal(file, code) or np.array_equal(file, -code)
        assert -4 <= codes.min() <= codes.max() <= 3
    scales = [numpy_helper.to_array(t) for n, t in kept.items() if n.endswith(".scale")]
    assert all((s > 0).all() for s in scales)


def test_weights_of_four_bits_are_stored_as_such_and_activations_are_not(conv):
    """Up to 1.30, ONNX Runtime lets codes of 8 bits overrun the memory of codes of 4."""
    model, made = conv.written(conv.uniform(4))
    kept = constants(made)
    for name, q in model.qlayers():
        tensor = kept[f"{name}.codes"]
        assert tensor.data_type == TensorProto.INT4
        assert len(tensor.raw_data) + 4 * len(tensor.int32_data) < 0.5 * q.weight.numel() + 5
        assert kept[f"{name}.act.zero_point"].data_type == TensorProto.UINT8


def test_a_code_without_a_negative_is_not_flipped_away(conv):
    """-8 of 4 bits under a negative BatchNorm factor: a sign follows the convolution."""
    model, made = conv.written(conv.uniform(4))
    signs = [n for n in constants(made) if n.endswith(".sign")]
    own = {name: q.codes().code for name, q in model.qlayers()}
    assert signs
    assert all((own[name.removesuffix(".sign")][::3] == -8).any() for name in signs)


def test_the_batch_is_of_any_size(conv):
    model, made = conv.written()
    running = session(made)
    with torch.no_grad():
        for count in (1, 5):
            x = VALID.x[:count]
            assert np.allclose(outputs(running, x)[0], model(x).numpy(), atol=1e-4)


def test_a_wrong_file_is_found_out(conv):
    """A scale off by a percent, and a single code off by one."""
    model, made = conv.written()
    for name in ("fc.scale", "blocks.0.conv1.act.scale"):
        wrong = copy.deepcopy(made)
        tensor = constants(wrong)[name]
        value = numpy_helper.to_array(tensor) * np.float32(1.01)
        tensor.CopyFrom(numpy_helper.from_array(value, name))
        assert not verify(model, wrong, VALID).ok, name
    wrong = copy.deepcopy(made)
    tensor = constants(wrong)["stem.codes"]
    value = numpy_helper.to_array(tensor).copy()
    value.flat[0] += 1 if value.flat[0] <= 0 else -1
    tensor.CopyFrom(numpy_helper.from_array(value, "stem.codes"))
    verdict = verify(model, wrong, VALID)
    assert not verdict.ok
    assert "has other codes than rounding explains" in verdict.text()


def test_a_graph_that_torch_cannot_export_is_refused_in_a_sentence():
    class Branching(toy.ToyConvNet):
        def forward(self, x):
            return super().forward(x) if float(x.sum()) > 0 else super().forward(-x)

    net = Branching().eval()
    layers = describe(net, toy.SHAPE)
    model = QModel(net, layers, schemes.get("mse")(), observe(net, layers, VALID.x, torch_rng(0)))
    with pytest.raises(UnsupportedExport, match="this network cannot be exported: ") as caught:
        traced(model, toy.SHAPE)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("bits", ["mixed", 8])
def test_resnet8_on_digits(bits, resnet8, digits):
    test = digits.splits.test
    model, made = resnet8.written(None if bits == "mixed" else resnet8.uniform(bits))
    verdict = verify(model, made, test)
    assert verdict.ok, verdict
    assert verdict.images == len(test)
    assert verdict.equal >= verdict.images - verdict.tied
    assert verdict.tied < 0.1 * verdict.images
    assert verdict.largest < LOGITS * 20 or verdict.tied


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("resnet20", (3, 32, 32)),
        ("mobilenetv2_small", (1, 28, 28)),
        ("resnet18", (3, 64, 64)),
        ("test_vit", (3, 160, 160)),
    ],
)
def test_whole_networks(name, shape, kernels):
    """With random weights; every layer at its own bits."""
    network = create(ModelConfig(name=name), 10, shape)
    layers = describe(network, shape)
    images = torch.randn(8, *shape, generator=torch_rng(0, name))
    calibration = observe(network, layers, images, torch_rng(0))
    bits = (8, 2, 3, 4, 5, 6)
    policy = Policy({x.name: (bits[i % 6], bits[i * 5 % 6]) for i, x in enumerate(layers)})
    model = QModel(network, layers, schemes.get("minmax")(), calibration).fix(policy).eval()
    reestimate_batchnorm(model, images)
    graph, split = traced(model, shape), TensorSplit(images, torch.zeros(8))
    made = to_qdq(copy.deepcopy(graph), exported_layers(model))
    verdict = verify(model, made, split)
    assert verdict.ok, verdict
    whole = to_qdq(graph, exported_layers(model), Integers.OUTPUTS)
    whole = with_quantized_outputs(whole, images)
    assert not {"Conv", "FusedConv"} & set(kernels(whole))
    result = change(model, whole, split)
    assert result.ok, result
