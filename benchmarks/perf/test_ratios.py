"""Our hot paths as ratios to what they stand beside, measured interleaved in one run.

`make perf` makes a page of them. Lone times say little about another machine; ratios carry over.
"""

import importlib
import os
from functools import partial
from unittest import mock

import pytest
import torch
from torch import nn

from benchmarks.models import ModelConfig, create
from frameworks import (
    BudgetSpec,
    Data,
    Policy,
    Problem,
    Space,
    TensorSplit,
    describe,
    measure,
    registry,
    schemes,
    targets,
    torch_rng,
)

SHAPE, CLASSES = (1, 28, 28), 10
NET = "ResNet-20, 28 x 28, batch 128, 4 bit weights and activations"


def images(count):
    generator = torch_rng(0, "perf")
    x = torch.randn(count, *SHAPE, generator=generator)
    y = torch.randint(CLASSES, (count,), generator=generator)
    return TensorSplit(x, y)


def problem(model, bits=(2, 4, 8)):
    network = create(ModelConfig(name=model), CLASSES, SHAPE).eval()
    layers = describe(network, SHAPE)
    space = Space.build(layers, bits, bits)
    target = targets.get("bops")()
    budget = BudgetSpec(like=4).resolve(target, space)
    split = images(2000)
    data = Data(split, split, split.subset(256, torch_rng(0, "images")).images())
    return Problem(network, space, target, budget, schemes.get("mse")(), data)


def step(model, parameters, x, y):
    optimizer = torch.optim.SGD(parameters, 0.02, momentum=0.9)

    def run():
        optimizer.zero_grad(set_to_none=True)
        torch.nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()

    return run


def qat_step(task, x, y, bits=4):
    """A training step at equal weight and activation bits, all ranges learned."""
    model = task.quantized()
    model.free(Policy.uniform(task.layers, bits, bits))
    model.train()
    return step(model, [p for p in model.parameters() if p.requires_grad], x, y)


def float_step(task, x, y):
    plain = task.float_model().train()
    return step(plain, plain.parameters(), x, y)


@pytest.mark.parametrize("threads", [1, 2])
def test_training_step_with_learned_ranges_over_the_float_step(compare, threads):
    """ResNet-20, 28 x 28, batch 128, 4-bit weights and activations."""
    torch.set_num_threads(threads)
    task = problem("resnet20")
    x, y = next(task.train.batches(128))
    ours, other = qat_step(task, x, y), float_step(task, x, y)
    title = f"training step with learned ranges over the float step, {threads} thread(s)"
    compare(ours, other, rounds=15, title=title, goal="1.15", note=NET)


def test_training_step_with_compiled_kernels_over_composed_operations(compare):
    """The same step with and without a compiler."""
    task = problem("resnet20")
    x, y = next(task.train.batches(128))
    plain = qat_step(task, x, y)

    def composed():
        with mock.patch.dict(os.environ, JUXTABIT_KERNELS="plain"):
            plain()

    compare(
        qat_step(task, x, y),
        composed,
        rounds=15,
        title="training step with compiled kernels over composed operations",
        note=NET,
    )


def test_search_step_of_edmips_over_the_training_step(compare):
    """ResNet-20, four weight and four activation bits a layer; four steps of a search a round."""
    task = problem("resnet20", (2, 3, 4, 8))
    x, y = next(task.train.batches(128))
    search = registry.get("edmips")(epochs=1, images=4 * 128, batch=128, augment=False)
    qat = qat_step(task, x, y)

    def steps():
        for _ in range(4):
            qat()

    compare(
        lambda: search.search(task),
        steps,
        rounds=7,
        title="search step of EdMIPS (4 x 4 bits) over the training step",
        goal="1.6",
        note=NET,
    )


def test_search_step_of_dnas_over_training_its_branches(compare):
    """ResNet-8, three candidates a block; an epoch of two steps of the weights a round."""
    task = problem("resnet8")
    x, y = next(task.train.batches(128))
    pairs = [[2, 2], [4, 4], [8, 8]]
    dnas = registry.get("dnas")(images=320, batch=128, pairs=pairs, augment=False)
    search = importlib.import_module(type(dnas).__module__)._Search(dnas, task)
    branches = [qat_step(task, x, y, bits) for bits, _ in pairs]

    def every_branch():
        for _ in range(2):
            for branch in branches:
                branch()

    ours = partial(search.train_weights, 1.0)
    compare(
        ours,
        every_branch,
        rounds=9,
        title="search step of DNAS over training its three branches",
        goal="1.0",
        note="ResNet-8, batch 128; soft masks are all positive, so every branch runs",
    )


class NativeQuantized(nn.Module):
    """A layer quantized by torch's own operators with learned steps, as its QAT does."""

    def __init__(self, inner, first):
        super().__init__()
        self.inner, self.low, self.high = inner, -8 if first else 0, 7 if first else 15
        self.step = nn.Parameter(torch.full((1,), 0.3))
        self.zero = torch.zeros(1)
        reach = inner.weight.detach().flatten(1).abs().amax(1)
        self.weight_step, self.weight_zero = nn.Parameter(reach / 7), torch.zeros_like(reach)

    def forward(self, x):
        x = torch._fake_quantize_learnable_per_tensor_affine(
            x, self.step, self.zero, self.low, self.high, (x.numel() * self.high) ** -0.5
        )
        raw = self.inner.weight
        scale = (raw[0].numel() * 7) ** -0.5
        weight = torch._fake_quantize_learnable_per_channel_affine(
            raw, self.weight_step, self.weight_zero, 0, -8, 7, scale
        )
        if isinstance(self.inner, nn.Linear):
            return nn.functional.linear(x, weight, self.inner.bias)
        return self.inner._conv_forward(x, weight, self.inner.bias)


def brevitas_layer(inner, first):
    """A layer of Brevitas with learned steps, 4 bits."""
    qnn = importlib.import_module("brevitas.nn")
    quant = importlib.import_module("brevitas.quant")
    options = {
        "weight_bit_width": 4,
        "weight_quant": quant.Int8WeightPerChannelFloat,
        "weight_scaling_impl_type": "parameter_from_stats",
        "input_quant": quant.Int8ActPerTensorFloat if first else quant.Uint8ActPerTensorFloat,
        "input_bit_width": 4,
        "input_collect_stats_steps": 1,
    }
    if isinstance(inner, nn.Linear):
        made = qnn.QuantLinear(inner.in_features, inner.out_features, bias=True, **options)
    else:
        made = qnn.QuantConv2d(
            inner.in_channels, inner.out_channels, inner.kernel_size, inner.stride, inner.padding,
            bias=False, **options,
        )  # fmt: skip
    made.load_state_dict(inner.state_dict(), strict=False)
    return made.to(memory_format=torch.channels_last)


PEERS = {"torch": NativeQuantized, "brevitas": brevitas_layer}


@pytest.mark.parametrize("peer", PEERS)
def test_training_step_over_that_of_a_peer(compare, peer):
    """ResNet-20 as above; torchao's training covers linear layers alone, so it has no row."""
    if peer != "torch":
        try:
            importlib.import_module(f"{peer}.nn")
        except ImportError as error:
            pytest.skip(f"{peer} is not installed in this environment ({error})")
    task = problem("resnet20")
    x, y = next(task.train.batches(128))
    other = task.float_model().train()
    for name, module in list(other.named_modules()):
        if isinstance(module, nn.Conv2d | nn.Linear):
            parent, _, leaf = name.rpartition(".")
            setattr(other.get_submodule(parent), leaf, PEERS[peer](module, name == "conv1"))
    theirs = step(other, other.parameters(), x, y)
    for _ in range(3):  # a peer may collect statistics first
        theirs()
    compare(
        qat_step(task, x, y),
        theirs,
        rounds=9,
        title=f"our training step over that of {peer}",
        goal="below 1",
        note=NET,
    )


def test_evaluating_a_policy_over_evaluating_the_float_network(compare):
    """ResNet-8, 2,000 images and 256 for BatchNorm; each round another policy."""
    task = problem("resnet8")
    rng = task.rng("policies")
    plain = task.float_model().eval()

    def ours():
        task.evaluate(task.space.sample(rng))

    compare(
        ours,
        lambda: measure(plain, task.valid),
        rounds=15,
        title="evaluating a new policy over evaluating the float network",
        note="ResNet-8, 2,000 images and 256 for BatchNorm; random policies",
    )
