"""Our hot paths as ratios to what they stand beside, measured interleaved in one run.

`make perf` makes a page of them. Lone times say little about another machine; ratios carry over.
"""

import copy
import importlib
import os
from functools import partial
from unittest import mock

import pytest
import torch

from benchmarks.models.build import ModelConfig, create
from benchmarks.perf.peers import PEERS, check
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


def float_network(task):
    """A float network in training mode that nothing meters."""
    made = create(ModelConfig(name="resnet20"), CLASSES, SHAPE)
    made.load_state_dict(task.float_model().state_dict())
    return made.train().to(memory_format=torch.channels_last)


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


@pytest.mark.parametrize("name", PEERS)
def test_training_step_over_that_of_a_peer(compare, name):
    """ResNet-20 as above; before it is timed, the peer's network is checked to be quantized."""
    peer = PEERS[name]
    if reason := peer.missing():
        pytest.skip(reason)
    task = problem("resnet20")
    x, y = next(task.train.batches(128))
    plain = float_network(task)
    other = peer.convert(copy.deepcopy(plain), x)
    exact = plain(x)
    assert (other(x) - exact).abs().max() > 0.05 * exact.abs().max()
    theirs = step(other, [p for p in other.parameters() if p.requires_grad], x, y)
    for _ in range(3):  # a peer may collect statistics first
        theirs()
    check(other, x, len(task.layers))
    trained = sum(p.grad is not None for p in other.parameters())
    assert (trained >= len(list(plain.parameters())) + 2 * len(task.layers)) == peer.learned
    compare(
        qat_step(task, x, y),
        theirs,
        rounds=9,
        title=f"our training step over that of {name}",
        goal="below 1",
        note=f"{NET}; {peer.note()}",
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
