"""QONNX files, and qonnx's count of bit operations and weight bits beside our cost models."""

import copy

import numpy as np
import pytest
import torch

from benchmarks.export.formats.qonnx import runnable, to_qonnx
from benchmarks.export.graphs.codes import exported_layers
from benchmarks.export.verify import verify
from frameworks import Policy
from frameworks.testing import toy

VALID = toy.split("valid", 128)
BITS = (8, 2, 3, 4, 5, 6, 8)


@pytest.fixture(params=["conv", "vit"])
def case(request):
    return request.getfixturevalue(request.param)


def written(case, policy=None):
    """LSQ has no zero points, which qonnx's count does not read."""
    acts = (8, 3, 2, 4, 6, 8, 5)
    own = Policy({x.name: (BITS[i % 7], acts[i % 7]) for i, x in enumerate(case.layers)})
    model = case.at(policy or own, "lsq")
    return model, to_qonnx(copy.deepcopy(case.graph), exported_layers(model))


def test_onnx_runtime_agrees_once_it_knows_quant(case):
    model, made = written(case)
    verdict = verify(model, runnable(made), VALID)
    assert verdict.ok, verdict


def test_mixed_and_pruned_channels(case):
    policy = Policy(
        {
            x.name: (tuple((0, 1, 2, 4, 8)[c % 5] for c in range(x.out_channels)), 1 + i % 8)
            for i, x in enumerate(case.layers)
        }
    )
    model, made = written(case, policy)
    verdict = verify(model, runnable(made), VALID)
    assert verdict.ok, verdict


def wrapped(made):
    pytest.importorskip("qonnx", reason="qonnx is not installed: no oracle for the costs")
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.transformation.infer_shapes import InferShapes

    # qonnx wants every shape fixed: a batch of one.
    for value in (made.graph.input[0], made.graph.output[0]):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    return ModelWrapper(made).transform(InferShapes())


def test_qonnx_computes_the_same(case):
    model, made = written(case)
    if any(n.op_type in ("Gelu", "LayerNormalization") for n in made.graph.node):
        pytest.skip("qonnx does not execute this network's operators at this opset")
    onnx_exec = pytest.importorskip("qonnx.core.onnx_exec", reason="qonnx is not installed")
    x = VALID.x[:1]
    theirs = onnx_exec.execute_onnx(wrapped(made), {"images": x.numpy()})["logits"]
    with torch.no_grad():
        assert np.allclose(theirs, model(x).numpy(), atol=1e-4)


def test_bit_operations_and_weight_bits_are_those_that_qonnx_counts(case):
    model, made = written(case)
    made = wrapped(made)
    from qonnx.util.inference_cost import inference_cost

    counted = inference_cost(made, discount_sparsity=False)["total_cost"]
    # Products of activations with activations have no weights and are no layer.
    free = counted.get("op_mac_FLOAT32_FLOAT32", 0) * 32 * 32
    ours = toy.make_problem(kind=type(model.model)).cost(model.policy)
    assert counted["total_bops"] - free == ours["bops"]
    assert counted["total_mem_w_bits"] == 8 * ours["size"]
