import copy
from dataclasses import replace

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn
from torch.nn import functional

from benchmarks.suite.conf import conf_folder
from frameworks import steer
from frameworks.core.quantizers.haq import LinearWeight
from frameworks.core.quantizers.pact import Pact
from frameworks.core.supernets.composite_search import complexity
from frameworks.core.supernets.relaxations import Choices
from frameworks.core.supernets.supernet import CompositeNet
from frameworks.gradient.edmips import EdMIPS
from frameworks.gradient.gmpq import GMPQ, attribution
from frameworks.gradient.gmpq import framework as module
from frameworks.gradient.gmpq.attribution import (
    Attributed,
    FeatureMaps,
    adaptive_power,
    distance,
    expected_bits,
    last_stage,
    weighed,
)
from frameworks.testing import toy
from tests.gradient import learning

FAST = GMPQ(epochs=2, images=64, batch=32, lr=0.01, alpha_lr=1.0, step=1, eta=0.01)


def with_source(**changes):
    """A toy problem whose source has noisier images and a network of its own."""
    of = toy.make_problem("bops", **changes)
    other = toy.make_problem("bops", **changes)
    model = copy.deepcopy(other.network)
    with torch.no_grad():
        model.fc.weight.mul_(0.5)
    return of.at(source=other.at(network=model))


def test_attributions_by_hand():
    # F_1 = (2, 1, 4, 0), F_2 = (1, 3, 2, 5), head weights of the top class (0.5, -0.25).
    maps = torch.tensor([[2.0, 1, 4, 0], [1, 3, 2, 5]]).view(1, 2, 2, 2)
    slope = torch.tensor([0.5, -0.25]).view(1, 2, 1, 1).expand_as(maps) / 4
    assert weighed(maps, slope).tolist() == [[0.75, 0, 1.5, 0]]
    tokens, per_token = (x.flatten(2).transpose(1, 2) for x in (maps, slope))
    assert weighed(tokens, per_token).tolist() == [[0.75, 0, 1.5, 0]]


@pytest.mark.parametrize(
    ("power", "value"),
    [(1, 0.00900975), (2, 0.02754441), (3, 0.05588261), (1.7066667, 0.01945380)],
)
def test_the_distance_by_hand(power, value):
    own, other = torch.tensor([[1.0, 2, 3, 0]]), torch.tensor([[1.0, 1, 2, 0]])
    assert float(distance(own, other, power)) == pytest.approx(value, abs=1e-7)
    assert float(distance(7 * own, 0.1 * other, power)) == pytest.approx(value, abs=1e-7)
    other = torch.tensor([[1.0, 1, 2, 0]])
    found = float(distance(torch.tensor([[0.75, 0, 1.5, 0]]), other, 3))
    assert found == pytest.approx(0.03209040, abs=1e-7)
    assert 40 * found == pytest.approx(1.28361599, abs=1e-5)


def test_the_distance_is_zero_for_what_is_proportional_to_the_power():
    other = torch.rand(3, 9, generator=torch.Generator().manual_seed(0))
    assert float(distance(4 * other**2.5, other, 2.5)) == pytest.approx(0, abs=1e-10)
    blank = distance(torch.zeros(1, 4, requires_grad=True), torch.zeros(1, 4), 3)
    blank.backward()
    assert torch.isfinite(blank)


def test_the_gradient_of_the_distance_is_the_value_s():
    generator = torch.Generator().manual_seed(0)
    own = torch.rand(2, 5, dtype=torch.float64, generator=generator).requires_grad_()
    other = torch.rand(2, 5, dtype=torch.float64, generator=generator)
    assert torch.autograd.gradcheck(lambda a: distance(a, other, 1.7), own)


@pytest.mark.parametrize(
    ("bits", "power"), [((2, 2), 6), ((3, 3), 2.666667), ((4, 4), 1.5), ((6, 6), 0.666667)]
)
def test_the_power_by_hand(bits, power):
    of = toy.make_problem("bops", bits=(2, 3, 4, 6))
    p = torch.zeros(8, 4)
    for row in range(8):
        p[row, (2, 3, 4, 6).index(bits[row % 2])] = 1
    assert adaptive_power(of.space, p) == pytest.approx(power, rel=1e-6)


def test_the_power_of_undecided_and_of_unequal_layers_by_hand():
    of = toy.make_problem("bops", bits=(2, 3, 4, 6))
    p = torch.full((8, 4), 0.25)
    assert expected_bits(of.space, p)["blocks.0.conv1"] == pytest.approx((3.75, 3.75))
    assert adaptive_power(of.space, p) == pytest.approx(1.706667, rel=1e-6)
    one = torch.eye(4)
    p = torch.stack([one[0], one[2], one[1], one[1]] * 2)  # (2, 4) and (3, 3), twice
    assert adaptive_power(of.space, p) == pytest.approx(2.833333, rel=1e-6)
    leading = torch.tensor([[1.0, 0, 0, 0]]).softmax(1).expand(8, 4)
    assert expected_bits(of.space, leading)["blocks.0.conv1"][0] == pytest.approx(3.22414393)
    size = toy.make_problem("size", bits=(2, 4))
    assert expected_bits(size.space, torch.full((4, 2), 0.5))["blocks.0.conv1"] == (3, 8)


def test_the_power_of_the_search_grows_as_bits_fall(monkeypatch):
    powers, plain = [], attribution.distance

    def noted(quantized, target, power):
        powers.append(power)
        return plain(quantized, target, power)

    monkeypatch.setattr(attribution, "distance", noted)
    method = replace(FAST, epochs=4, step=4, eta=10.0)
    method.search(toy.make_problem("bops", bits=(2, 3, 4, 6)))
    assert powers[0] == pytest.approx(1.706667, rel=1e-6)
    assert powers == sorted(powers)
    assert powers[-1] == pytest.approx(6, rel=0.01)  # all at 2 bits
    powers.clear()
    replace(method, epochs=1, power=3.0).search(toy.make_problem("bops"))
    assert powers == [3.0, 3.0]


def test_quantizers_by_hand():
    w, x = torch.tensor([0.5, -0.3]), torch.tensor([3.1])
    expected = {2: ([0.8, 0], 4), 3: ([0.533333, -0.266667], 3.428571), 4: (None, 3.2)}
    expected[4] = ([0.457143, -0.342857], 3.2)
    for bits, (weights, act) in expected.items():
        torch.testing.assert_close(
            LinearWeight(torch.tensor(0.8), bits)(w), torch.tensor(weights), atol=1e-6, rtol=0
        )
        found = float(Pact(torch.tensor(6.0), bits)(x))
        assert found == pytest.approx(act, abs=1e-6)


def test_the_penalty_is_that_of_edmips():
    # L_C = sum_l S_l E[b_w] E[b_a] / S_1: (36 + 72) / 36 * 3.75^2 = 42.1875 of two layers.
    of = toy.make_problem("bops", bits=(2, 3, 4, 6))
    p = torch.full((8, 4), 0.25)
    macs = [layer.macs for layer in of.space.free_layers]
    pinned = 64 * (of.layers[0].macs + of.layers[-1].macs)
    expected = (sum(macs) * 3.75**2 + pinned) / macs[0]
    assert float(complexity(of)(p)) == pytest.approx(expected, rel=1e-5)


class Head(nn.Module):
    """Maps behind a convolution, global pooling and a linear layer."""

    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 5, 3, padding=1), nn.Linear(5, 4)

    def forward(self, x):
        return self.fc(functional.relu_(self.conv(x)).mean((2, 3)))


def test_attributions_are_those_of_the_largest_logit():
    torch.manual_seed(0)
    net, x = Head().double(), torch.randn(6, 3, 4, 4, dtype=torch.float64)
    maps = FeatureMaps(net, "conv")
    with maps.watched():
        logits = net(x)
        found = maps.attribution(logits, differentiable=True)
        features = maps.maps
    top = logits.argmax(1)
    slope = net.fc.weight[top][:, :, None, None] * (features > 0) / 16
    expected = (slope.sum((2, 3), keepdim=True) * features).sum(1).relu().flatten(1)
    torch.testing.assert_close(found, expected)
    # The gradient through g_c is that of the closed form, to the head's weights as well.
    reached = [net.conv.weight, net.conv.bias, net.fc.weight]
    first, second = (
        torch.autograd.grad(whole.square().sum(), reached, retain_graph=True)
        for whole in (found, expected)
    )
    torch.testing.assert_close(first, second)
    assert maps.maps is None, "nothing is left behind"
    assert not net.conv._forward_hooks


def test_the_last_stage_is_the_last_block_of_several_positions():
    assert last_stage(toy.make_problem()) == ("blocks.1", ["fc"])
    assert last_stage(toy.make_problem(kind=toy.ToyViT)) == ("blocks.0", ["head"])


def test_the_float_network_gets_no_gradient_and_stays_in_eval_mode():
    of = toy.make_problem("bops")
    net = CompositeNet(of)
    pair = Attributed(of, net).train()
    choices = Choices([6] * 8, start=0.01)
    net.mix(choices.probabilities())
    x, y = next(of.train.batches(32))
    (functional.cross_entropy(pair(x), y) + pair.distance(x, 2.0)).backward()
    (teacher,) = pair.teacher
    assert all(p.grad is None for p in teacher.parameters())
    assert not any(m.training for m in teacher.modules())
    assert net.training
    assert bool(torch.isfinite(choices.logits.grad).all())
    assert {id(p) for p in pair.parameters()} == {id(p) for p in net.parameters()}


@pytest.mark.parametrize("kind", [toy.ToyConvNet, toy.ToyViT])
def test_the_distance_alone_moves_every_alpha(kind):
    of = toy.make_problem("bops", kind=kind)
    net = CompositeNet(of)
    pair, choices = Attributed(of, net), Choices([6] * len(of.space.choices), start=0.01)
    net.mix(choices.probabilities())
    x = of.images[:32]
    pair(x)
    pair.distance(x, 2.0).backward()
    slopes = choices.logits.grad.abs().sum(1)
    assert bool((slopes > 0).all())
    assert bool(torch.isfinite(slopes).all())


def test_at_many_bits_a_network_looks_where_the_float_one_does():
    problem = toy.make_problem("bops", bits=(2, 8))
    net = CompositeNet(problem).eval()
    pair = Attributed(problem, net).eval()
    near, far = torch.zeros(8, 2), torch.zeros(8, 2)
    near[:, 1], far[:, 0] = 1, 1
    away = []
    for p in (near, far):
        net.mix(p)
        pair(problem.images)
        away.append(float(pair.distance(problem.images, 1.0).detach()))
    assert away[0] < 0.02 * away[1], "8 bits see what the float network sees, 2 bits do not"


def test_without_attributions_it_is_edmips_on_the_small_data():
    of = with_source()
    method = replace(FAST, attribution=0.0)
    ours = method.search(of)
    kept = EdMIPS(
        **{k: getattr(method, k) for k in ("epochs", "images", "batch", "lr", "alpha_lr", "step")},
        eta=method.eta,
    )
    source = of.source

    class Named(EdMIPS):
        name = "gmpq"  # the axis of its random draws

    theirs = Named(**kept.hyperparameters()).search(source)
    assert ours.notes["entropy"] == pytest.approx(theirs.notes["entropy"], rel=1e-5)
    assert ours.policy == theirs.policy


def test_it_searches_on_the_source_and_is_counted_there():
    of = with_source()
    before = of.source.meter.read()
    solution = FAST.search(of)
    of.space.validate(solution.policy)
    assert of.source.meter.read().images_forward == before.images_forward
    # Two epochs of 64 images, by the super net and by the float network.
    spent = of.meter.read()
    assert spent.images_backward >= 128
    assert spent.images_forward >= 256
    alone = FAST.search(toy.make_problem("bops"))
    assert alone.notes["learning"] != solution.notes["learning"]


def test_without_a_source_it_sees_the_same_few_images_in_every_epoch():
    of, seen = toy.make_problem("bops"), set()
    with pytest.MonkeyPatch.context() as patch:
        plain = module.cross_entropy

        def noted(model, x, y):
            seen.update(image.numpy().tobytes() for image in x)
            return plain(model, x, y)

        patch.setattr(module, "cross_entropy", noted)
        replace(FAST, epochs=3, augment=False).search(of)
    assert len(seen) == 64


@pytest.mark.parametrize(("target", "like"), [("bops", 2.5), ("size", 3)])
def test_the_budget_is_met_by_steering(target, like):
    of = toy.make_problem(target, like=like, bits=(2, 4, 8), needs=GMPQ.card.needs)
    solution = steer(FAST, of)
    assert of.within(solution.policy)
    of.space.validate(solution.policy)


def test_more_strength_costs_less():
    of = toy.make_problem("bops")
    costs = [of.cost(replace(FAST, eta=e).search(of).policy)["bops"] for e in (1e-4, 1e-2, 1.0)]
    assert costs[0] > costs[1] >= costs[2]
    assert costs[2] == of.cost(of.space.lowest())["bops"]


def test_tied_and_paired():
    of = toy.make_problem("bops", groups=[("blocks.0.conv1", "blocks.0.conv2")])
    policy = FAST.search(of).policy
    assert policy["blocks.0.conv1"] == policy["blocks.0.conv2"]
    paired = FAST.search(toy.make_problem("bops", paired=True)).policy
    assert all(b.weight == b.act for b in paired.values())


def test_same_seed_same_result():
    def found(seed):
        solution = FAST.search(with_source(seed=seed))
        return solution.policy, solution.notes

    torch.manual_seed(1)
    first = found(0)
    torch.manual_seed(2)
    assert found(0) == first
    assert found(1)[1] != first[1]


def test_skips():
    assert "nothing to search" in FAST.skip(toy.make_problem("bops", bits=(8,), like=8))
    assert FAST.skip(with_source()) is None
    with pytest.raises(ValueError, match="power"):
        GMPQ(power=-1.0).validate()


def test_attributions_come_nearer_and_alphas_decide():
    of = toy.make_problem("bops")
    method = replace(FAST, epochs=8, images=256, batch=32, step=6, eta=1e-4, power=2.0)
    notes = method.search(of).notes
    without = replace(method, attribution=0.0).search(of).notes
    assert notes["attribution"][1] < notes["attribution"][0]
    assert notes["attribution"][1] < without["attribution"][1]
    shorter = replace(method, epochs=2).search(of).notes
    assert notes["entropy"] < shorter["entropy"]
    assert notes["learning"]["improved"]


@pytest.mark.slow
def test_it_learns_from_data():
    suite = OmegaConf.load(conf_folder() / "suite" / "quick.yaml")
    method = GMPQ(**OmegaConf.to_container(suite.overrides.framework.gmpq))
    found = learning.learned(method)
    assert found.differ
    assert found.gain > 0
    assert min(accuracy for _, accuracy in found.with_loss) > 30
