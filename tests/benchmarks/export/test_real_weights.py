"""EfficientNet-Lite0 with ImageNet weights on 20 labelled images, at 224 px."""

import copy

import numpy as np
import pytest
import torch
from onnx import TensorProto, numpy_helper

from benchmarks.export.formats.qdq import to_qdq
from benchmarks.export.graphs.bitstream import pack
from benchmarks.export.graphs.codes import exported_layers
from benchmarks.export.graphs.trace import traced
from benchmarks.export.verify import verify
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
from tests.real_weights import imagenet, lite0

pytestmark = pytest.mark.slow
BITS = (8, 6, 5, 4)


@pytest.fixture(scope="module")
def network():
    return lite0()


@pytest.fixture(scope="module")
def split(network):
    return TensorSplit(*imagenet(network))


def test_the_float_network_knows_the_images(network, split):
    with torch.no_grad():
        assert (network(split.x).argmax(1) == split.y).float().mean() == pytest.approx(0.9)


@pytest.fixture(scope="module")
def exported(network, split):
    layers = describe(network, (3, 224, 224))
    calibration = observe(network, layers, split.x, torch_rng(0, "calibration"))
    policy = Policy({x.name: (BITS[i % 4], (8, 6)[i % 2]) for i, x in enumerate(layers)})
    model = QModel(network, layers, schemes.get("mse")(), calibration).fix(policy).eval()
    reestimate_batchnorm(model, split.x)
    return model, to_qdq(traced(model, (3, 224, 224)), exported_layers(model))


def test_its_file_passes(exported, split):
    verdict = verify(*exported, split)
    assert verdict.ok, verdict
    assert verdict.tied > 0
    assert verdict.accuracy[1] >= 65


@pytest.mark.parametrize("layer", ["classifier", "conv_head"])
def test_shuffled_weights_are_found_out(layer, exported, split):
    model, made = exported
    wrong = copy.deepcopy(made)
    tensor = next(t for t in wrong.graph.initializer if t.name == f"{layer}.codes")
    codes = numpy_helper.to_array(tensor).astype(np.int64)
    shuffled = np.random.default_rng(0).permutation(codes.flatten()).reshape(codes.shape)
    assert (shuffled != codes).any()
    if tensor.data_type == TensorProto.INT4:
        tensor.raw_data = pack(shuffled.flatten() & 15, np.full(codes.size, 4)).tobytes()
    else:
        dtype = numpy_helper.to_array(tensor).dtype
        tensor.CopyFrom(numpy_helper.from_array(shuffled.astype(dtype), tensor.name))
    verdict = verify(model, wrong, split)
    assert verdict.faults
    assert len(verdict.beyond()) == 2
    assert verdict.equal <= 2
