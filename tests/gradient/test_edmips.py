import itertools
from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from frameworks import schemes, steer
from frameworks.core.quantizers.hwgq import GaussianWeight, gaussian_step
from frameworks.core.supernets.relaxations import Choices
from frameworks.core.supernets.supernet import CompositeNet
from frameworks.gradient.edmips import ALPHA_START, EdMIPS, complexity
from frameworks.testing import toy

FAST = EdMIPS(epochs=2, images=64, batch=32, alpha_lr=1.0, step=1, eta=0.01)


def normal(count=200_000, seed=0):
    return torch.randn(count, generator=torch.Generator().manual_seed(seed))


def shares(problem, seed=0):
    counts = [len(c.bits) for c in problem.space.choices]
    logits = torch.randn(len(counts), max(counts), generator=torch.Generator().manual_seed(seed))
    for row, count in enumerate(counts):
        logits[row, count:] = -torch.inf
    return logits.softmax(1)


def test_defaults_are_the_released_ones():
    method = EdMIPS()
    assert (method.epochs, method.batch, method.step) == (25, 256, 10)
    assert (method.lr, method.alpha_lr, method.weight_decay) == (0.1, 0.01, 1e-4)
    assert method.eta == 0.00335
    assert ALPHA_START == 0.01
    assert EdMIPS.card.quantizer == "hwgq"


def test_complexity_is_the_product_of_expected_bits():
    problem = toy.make_problem("bops", bits=(2, 3, 8))
    p = shares(problem)
    bits = torch.tensor([2.0, 3, 8])
    macs = {layer.name: layer.macs for layer in problem.layers}
    first = problem.space.free_layers[0]
    assert first.name == "blocks.0.conv1"
    total = 64 * (macs["stem"] + macs["fc"])
    for row, layer in enumerate(problem.space.free_layers):
        total += layer.macs * float(p[2 * row] @ bits) * float(p[2 * row + 1] @ bits)
    assert float(complexity(problem)(p)) == pytest.approx(total / first.macs, rel=1e-5)


def test_complexity_on_other_metrics_is_the_expected_table():
    problem = toy.make_problem("size", bits=(2, 4))
    p = shares(problem)
    params = {layer.name: layer.params for layer in problem.layers}
    total = 8 * (params["stem"] + params["fc"])
    for row, layer in enumerate(problem.space.free_layers):
        total += layer.params * float(p[row] @ torch.tensor([2.0, 4]))
    unit = problem.space.free_layers[0].params  # the layer at one bit
    assert float(complexity(problem)(p)) == pytest.approx(total / unit, rel=1e-5)


def test_unit_of_a_paired_space_is_the_first_layer_at_one_bit():
    problem = toy.make_problem("bops", bits=(2, 4), paired=True)
    p = torch.zeros(len(problem.space.choices), 2)
    p[:, 0] = 1
    cheapest = problem.cost(problem.space.lowest())["bops"]
    first = problem.space.free_layers[0].macs
    assert float(complexity(problem)(p)) == pytest.approx(cheapest / first, rel=1e-5)


def test_penalty_gradient_pushes_to_fewer_bits_everywhere():
    problem = toy.make_problem("bops")
    choices = Choices([6] * len(problem.space.choices), start=ALPHA_START)
    complexity(problem)(choices.probabilities()).backward()
    slope = choices.logits.grad
    assert bool((slope.diff(dim=1) > 0).all())
    torch.testing.assert_close(slope.sum(1), torch.zeros(len(slope)), atol=1e-4, rtol=0)


def test_the_policy_is_the_argmax():
    problem = toy.make_problem("bops", bits=(2, 4, 8))
    choices = Choices([3] * 8)
    with torch.no_grad():
        choices.logits[0, 2] = choices.logits[1, 1] = choices.logits[7, 2] = 1.0
    policy = EdMIPS.extract(problem, choices)
    assert [(b.weight, b.act) for b in policy.values()] == [
        (8, 8), (8, 4), (2, 2), (2, 2), (2, 8), (8, 8)
    ]  # fmt: skip


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_weight_steps_are_optimal_for_normal_data(bits):
    w = normal()
    half = 2 ** (bits - 1)

    def error(step):
        q = (torch.round(w / step + 0.5) - 0.5).clamp(0.5 - half, half - 0.5) * step
        return float((q - w).square().mean())

    steps = [0.05 + 0.002 * i for i in range(900)]
    best = min(steps, key=error)
    published = {1: 1.596, 2: 0.996, 3: 0.586, 4: 0.336}[bits]
    assert gaussian_step("weight", bits) == published
    assert best == pytest.approx(published, abs=0.01)


def test_activation_steps_are_the_released_ones():
    assert [gaussian_step("activation", b) for b in (1, 2, 3, 4)] == [0.799, 0.538, 0.3217, 0.185]
    with pytest.raises(ValueError, match="no Gaussian step for 9 bits"):
        gaussian_step("activation", 9)


@pytest.mark.parametrize("bits", [1, 2, 3])
def test_weight_levels(bits):
    w = 3 * normal(5000)
    levels = GaussianWeight(bits)(w).unique()
    step = gaussian_step("weight", bits) * w.std()
    half = 2 ** (bits - 1)
    torch.testing.assert_close(levels, step * (torch.arange(-half, half) + 0.5))


def test_activations_are_half_wave():
    scheme = schemes.get("hwgq")()
    quantizer = scheme.activation(normal().clamp_min(0), 2)  # positive half of unit variance
    x = torch.tensor([-1.0, 0.2, 0.3, 0.9, 5.0])
    expected = 0.538 * torch.tensor([0.0, 0, 1, 2, 3])
    torch.testing.assert_close(quantizer(x), expected, rtol=0.01, atol=0)


def test_weights_and_logits_step_together():
    problem = toy.make_problem("bops")
    net, choices = CompositeNet(problem), Choices([6] * 8, start=ALPHA_START)
    of_weights, of_logits = FAST.optimizers(net, choices)
    assert [g["params"] for g in of_logits.param_groups] == [[choices.logits]]
    logits = of_logits.param_groups[0]
    assert (logits["momentum"], logits["weight_decay"], logits["lr"]) == (0.9, 1e-4, 1.0)
    weights, ranges = of_weights.param_groups
    assert ranges["lr"] == pytest.approx(0.1 * weights["lr"])
    assert ranges["weight_decay"] == 0
    every = {id(p) for g in of_weights.param_groups for p in g["params"]}
    assert every == {id(p) for p in net.parameters() if p.requires_grad}


def test_first_step_of_the_logits_by_hand():
    # One step of SGD: alpha - lr * (d CE / d alpha + eta * d C / d alpha + decay * alpha).
    problem = toy.make_problem("bops", bits=(2, 8))
    method = EdMIPS(epochs=1, batch=256, alpha_lr=0.5, eta=0.02, step=1, augment=False)
    kept = []

    class Kept(Choices):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            kept.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("frameworks.gradient.edmips.Choices", Kept)
        method.search(problem)
    net, choices = CompositeNet(problem), Choices([2] * 8, start=ALPHA_START)
    p = choices.probabilities()
    net.train().mix(p)
    x, y = next(problem.train.batches(256))
    loss = functional.cross_entropy(net(x), y) + 0.02 * complexity(problem)(p)
    loss.backward()
    slope = choices.logits.grad + 1e-4 * ALPHA_START
    torch.testing.assert_close(
        kept[0].logits.detach(), ALPHA_START - 0.5 * slope, rtol=1e-3, atol=1e-5
    )


def test_without_penalty_the_loss_alone_decides():
    problem = toy.make_problem("bops", bits=(1, 8))
    free = replace(FAST, eta=1e-9, epochs=4).search(problem).policy
    bits = [
        b
        for layer in problem.space.free_layers
        for b in (free[layer.name].weight, free[layer.name].act)
    ]
    assert sum(b == 8 for b in bits) >= 6


def test_more_strength_costs_less():
    problem = toy.make_problem("bops")
    costs = [
        problem.cost(replace(FAST, eta=eta).search(problem).policy)["bops"]
        for eta in (1e-4, 1e-2, 1.0)
    ]
    assert costs[0] > costs[1] >= costs[2]
    assert costs[2] == problem.cost(problem.space.lowest())["bops"]


@pytest.mark.parametrize(("target", "like"), [("bops", 2.5), ("size", 3)])
def test_the_budget_is_met_by_steering(target, like):
    problem = toy.make_problem(target, like=like, bits=(2, 4, 8), needs=EdMIPS.card.needs)
    solution = steer(FAST, problem)
    assert problem.within(solution.policy)
    problem.space.validate(solution.policy)
    assert solution.policy["stem"].weight == solution.policy["fc"].weight == 8
    assert 1 <= len(solution.notes["steering"]) <= 6
    assert problem.meter.read().images_backward == 128 * len(solution.notes["steering"])


@pytest.mark.parametrize("changes", [{"paired": True}, {"kind": toy.ToyViT}, {"scheme": "hwgq"}])
def test_other_spaces_networks_and_schemes(changes):
    problem = toy.make_problem("bops", like=4, **changes)
    problem.space.validate(FAST.search(problem).policy)


def test_tied_layers_get_equal_bits():
    problem = toy.make_problem("bops", groups=[("blocks.0.conv1", "blocks.0.conv2")])
    policy = FAST.search(problem).policy
    assert policy["blocks.0.conv1"] == policy["blocks.0.conv2"]


def test_same_seed_same_result():
    def found(seed):
        problem = toy.make_problem("bops", bits=(2, 4, 8), seed=seed)
        solution = FAST.search(problem)
        return solution.policy, solution.notes, [c.policy for c in problem.checkpoints]

    torch.manual_seed(1)
    first = found(0)
    torch.manual_seed(2)
    assert found(0) == first
    assert found(1)[1] != first[1]


def test_no_global_randomness_is_drawn():
    before = torch.random.get_rng_state()
    FAST.search(toy.make_problem("bops"))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_space_without_choices_is_skipped():
    problem = toy.make_problem("bops", bits=(8,), like=8)
    assert "nothing to search" in FAST.skip(problem)
    assert FAST.skip(toy.make_problem("bops")) is None


def test_divergence_is_reported():
    with pytest.raises(FloatingPointError, match="diverged in pass"):
        replace(FAST, lr=1e20).search(toy.make_problem("bops"))


def test_entropy_falls_as_choices_are_made():
    problem = toy.make_problem("bops")
    values = [
        replace(FAST, epochs=e, step=e, eta=1.0).search(problem).notes["entropy"] for e in (1, 4)
    ]
    assert 0 <= values[1] < values[0] < 1


def test_penalty_is_a_constant_apart_from_the_shares():
    problem = toy.make_problem("bops", bits=(2, 4))
    cost, lowest = complexity(problem), torch.tensor([[1.0, 0]] * 8)
    seen = set()
    for picks in itertools.product((0, 1), repeat=2):
        p = lowest.clone()
        p[0], p[1] = torch.eye(2)[picks[0]], torch.eye(2)[picks[1]]
        seen.add(round(float(cost(p) - cost(lowest)), 3))
    assert seen == {0.0, 4.0, 12.0}  # in units of the first layer's MACs: 2x2, 4x2, 2x4, 4x4
