import itertools
import random

import pytest
import torch
from safetensors.torch import load_file

from benchmarks.export.formats.packed import BadPackedFile, load_packed, packed_tensors, save_packed
from benchmarks.export.graphs.errors import UnsupportedExport
from frameworks import Policy, QModel, reestimate_batchnorm, schemes, targets
from frameworks.testing import toy

UNSUPPORTED = {
    "adq": "Thresholds",
    "autoq_binary": "NearestLevel",
    "bsq": "DynamicRange",
    "stochastic": "Stochastic",
}


def mixed(layers, seed=0):
    """All widths from 0 to 8, some layers with different ones in each channel."""
    draw = random.Random(seed)

    def weight(layer, index):
        if index % 2:
            return tuple(draw.choice(range(9)) for _ in range(layer.out_channels))
        return draw.choice(range(1, 9))

    acts = itertools.cycle((8, 4, 3, 1, 2, 5, 32))
    return Policy({x.name: (weight(x, i), next(acts)) for i, x in enumerate(layers)})


@pytest.fixture(params=[toy.ToyConvNet, toy.ToyViT], ids=["conv", "vit"])
def make(request, make_problem):
    def made(scheme="mse", policy=mixed):
        problem = make_problem(kind=request.param, scheme=scheme)
        model = problem.quantized(policy(problem.layers))
        reestimate_batchnorm(model, problem.images)
        return problem, model

    return made


@torch.no_grad()
def logits(model):
    return model(toy.split("valid", 128).x)


@pytest.mark.parametrize("scheme", sorted(set(schemes.names()) - set(UNSUPPORTED)))
def test_a_loaded_network_has_the_outputs_of_the_saved_one(scheme, make, tmp_path):
    problem, model = make(scheme)
    payload = save_packed(model, tmp_path / "a.safetensors", toy.SHAPE)
    again = load_packed(tmp_path / "a.safetensors", type(problem.network)())
    assert torch.equal(logits(again), logits(model))
    assert again.policy == model.policy
    sizes = [targets.get("size")().cost([x], model.policy)["size"] for x in problem.layers]
    assert payload == sum(-(-round(8 * size) // 8) for size in sizes)


@pytest.mark.parametrize("bits", range(1, 9))
def test_the_weights_take_the_bytes_of_the_size_target(bits, make, tmp_path):
    problem, model = make(policy=lambda layers: Policy.uniform(layers, bits, 8))
    save_packed(model, tmp_path / "a.safetensors", toy.SHAPE)
    tensors = load_file(tmp_path / "a.safetensors")
    streams = sum(len(t) for k, t in tensors.items() if k.endswith(".codes"))
    assert streams == problem.cost(model.policy)["size"]
    assert not any(k.endswith(".weight") for k in tensors if k.startswith("layer."))


def test_trained_ranges_are_saved(make, tmp_path):
    problem, model = make()
    model.free(mixed(problem.layers))
    with torch.no_grad():
        for _, q in model.qlayers():
            for p in q.parameters():
                p.mul_(1.07)
    save_packed(model, tmp_path / "a.safetensors", toy.SHAPE)
    again = load_packed(tmp_path / "a.safetensors", problem.network)
    assert torch.equal(logits(again), logits(model))


@pytest.mark.parametrize(("scheme", "quantizer"), UNSUPPORTED.items())
def test_what_is_no_fixed_grid_is_refused(scheme, quantizer, make):
    _, model = make(scheme, lambda layers: Policy.uniform(layers, 4, 4))
    with pytest.raises(UnsupportedExport, match=rf"layer \w+.*: activations of {quantizer}"):
        packed_tensors(model)


def test_float_layers_stay_float(make, tmp_path):
    _, model = make(policy=lambda layers: Policy.uniform(layers, 32, 32))
    payload = save_packed(model, tmp_path / "a.safetensors", toy.SHAPE)
    assert payload == 4 * sum(layer.params for layer in model.layers)


def test_files_that_do_not_fit_are_refused(make, make_problem, tmp_path):
    path = tmp_path / "a.safetensors"
    problem, model = make()
    save_packed(model, path, toy.SHAPE)
    kinds = {toy.ToyConvNet, toy.ToyViT} - {type(problem.network)}
    with pytest.raises(BadPackedFile, match="layers are not those of the network"):
        load_packed(path, kinds.pop()())
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(BadPackedFile, match="cannot be read"):
        load_packed(path, problem.network)
    with pytest.raises(BadPackedFile, match="cannot be read"):
        load_packed(tmp_path / "none", problem.network)


def test_codes_of_a_layer_are_its_weight(make):
    """In both modes, and where the ranges of a fixed layer are those of the whole tensor."""
    problem, model = make("lsq")
    assert isinstance(model, QModel)
    for apply in (model.fix, model.free):
        apply(mixed(problem.layers, 3))
        for _, q in model.qlayers():
            assert torch.equal(q.codes().dequantize(), q.weight)
