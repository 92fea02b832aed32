"""Networks with their traces: tracing takes torch seconds, and one trace serves all bits."""

import copy
import random
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import onnx
import pytest
import torch
from torch import Tensor

from benchmarks.export.formats.integers import Integers
from benchmarks.export.formats.qdq import to_qdq
from benchmarks.export.graphs import trace
from benchmarks.export.graphs.codes import exported_layers
from frameworks import Policy, QModel, describe, observe, reestimate_batchnorm, schemes, torch_rng
from frameworks.testing import toy


@dataclass
class Case:
    """A network, images of it and its trace."""

    model: QModel
    images: Tensor
    graph: Any

    @property
    def layers(self):
        return self.model.layers

    def uniform(self, bits):
        return Policy.uniform(self.layers, bits, bits)

    def mixed(self, seed=0):
        """Weights of 1, 2, 3, 4, 5 and 8 bits, mixed and pruned channels; activations alike."""
        draw = random.Random(seed)
        acts = (8, 4, 3, 1, 2, 5, 32, 6)

        def weight(layer, index):
            if index % 3 == 2:
                return tuple(draw.choice((0, 1, 2, 3, 4, 5, 8)) for _ in range(layer.out_channels))
            return (1, 2, 3, 4, 5, 8)[(index + seed) % 6]

        layers = enumerate(self.layers)
        return Policy({x.name: (weight(x, i), acts[(i + seed) % 8]) for i, x in layers})

    def at(self, policy=None, scheme=None):
        """The network at other bits."""
        model = copy.deepcopy(self.model)
        for _, q in model.qlayers():
            q.scheme = schemes.get(scheme)() if scheme else q.scheme
            q._weights.clear()
        return model.fix(policy or self.mixed()).eval()

    def written(self, policy=None, integers=Integers.NONE, scheme=None):
        """The network at other bits, and its file."""
        model = self.at(policy, scheme)
        made = to_qdq(copy.deepcopy(self.graph), exported_layers(model), integers)
        onnx.checker.check_model(made, full_check=True)
        return model, made


def case_of(network, shape, images, flipped=False):
    layers = describe(network, shape)
    calibration = observe(network, layers, images, torch_rng(0, "calibration"))
    model = QModel(network, layers, schemes.get("mse")(), calibration)
    model.fix(Policy.uniform(layers, 6, 6)).eval()
    reestimate_batchnorm(model, images)
    for module in model.modules() if flipped else ():
        if isinstance(module, torch.nn.BatchNorm2d):
            with torch.no_grad():
                module.weight[::3] *= -1
                module.weight[1] = 0
    return Case(model, images, trace.traced(model, shape))


@pytest.fixture(scope="session")
def make_case():
    """Factory: a case of any network for the toy images."""
    return lambda network: case_of(network, toy.SHAPE, toy.split("valid", 128).x)


@pytest.fixture(scope="session")
def make_case_of():
    """Factory: a case of any network, shape of a sample and images."""
    return case_of


@pytest.fixture(scope="session")
def conv():
    """Some BatchNorm factors are negative, and one zero, as training may make them."""
    return case_of(toy.network(toy.ToyConvNet), toy.SHAPE, toy.make_problem().images, flipped=True)


@pytest.fixture(scope="session")
def vit():
    return case_of(toy.network(toy.ToyViT), toy.SHAPE, toy.make_problem().images)


@pytest.fixture(scope="session")
def resnet8(digits):
    splits = digits.splits
    images = splits.train.subset(256, torch_rng(0, "data")).images()
    return case_of(digits.checkpoint.model, splits.input_shape, images)


@pytest.fixture(scope="module")
def one_trace_each():
    """Networks that differ in nothing but their quantizers are traced once."""
    known, real = {}, trace.traced

    def once(model, shape):
        state = model.model.state_dict().items()
        kept = [(k, v.numpy().tobytes()) for k, v in state if "_quantizer." not in k]
        key = sha256(repr((type(model.model), shape, kept)).encode()).hexdigest()
        if key not in known:
            known[key] = real(model, shape)
        return copy.deepcopy(known[key])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trace, "traced", once)
        yield


@pytest.fixture
def kernels(tmp_path):
    """Factory: the types of the nodes that ONNX Runtime makes of a model."""
    onnxruntime = pytest.importorskip("onnxruntime")

    def of(made):
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
        options.log_severity_level = 3
        onnxruntime.InferenceSession(made.SerializeToString(), options)
        return [node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node]

    return of
