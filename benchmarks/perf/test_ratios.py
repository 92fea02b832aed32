"""Our hot paths as ratios to what they stand beside, measured interleaved in one run.

`make perf` prints pytest-benchmark's table; every row's ``extra_info`` holds the median ratio and
the range of the repetitions. Lone times say little about another machine; the ratios carry over.
"""

import torch

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
    schemes,
    targets,
    torch_rng,
)

SHAPE, CLASSES = (1, 28, 28), 10


def images(count):
    generator = torch_rng(0, "perf")
    x = torch.randn(count, *SHAPE, generator=generator)
    y = torch.randint(CLASSES, (count,), generator=generator)
    return TensorSplit(x, y)


def problem(model):
    network = create(ModelConfig(name=model), CLASSES, SHAPE).eval()
    layers = describe(network, SHAPE)
    space = Space.build(layers, (2, 4, 8), (2, 4, 8))
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


def test_training_step_with_learned_ranges_over_the_float_step(compare):
    """ResNet-20, 28 x 28, batch 128, 4-bit weights and activations."""
    task = problem("resnet20")
    x, y = next(task.train.batches(128))
    model, plain = task.quantized(), task.float_model().train()
    model.free(Policy.uniform(task.layers, 4, 4))
    model.train()
    quantized = step(model, [p for p in model.parameters() if p.requires_grad], x, y)
    compare(quantized, step(plain, plain.parameters(), x, y), rounds=15)


def test_evaluating_a_policy_over_evaluating_the_float_network(compare):
    """ResNet-8, 2,000 images and 256 for BatchNorm; each round another policy."""
    task = problem("resnet8")
    rng = task.rng("policies")
    plain = task.float_model().eval()

    def ours():
        task.evaluate(task.space.sample(rng))

    compare(ours, lambda: measure(plain, task.valid), rounds=15)
