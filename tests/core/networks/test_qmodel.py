import copy

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional

from frameworks.core.networks.calibrate import Calibration, observe
from frameworks.core.networks.qlayer import QLayer, run_layer
from frameworks.core.networks.qmodel import QModel
from frameworks.core.networks.taking.describe import describe
from frameworks.core.networks.taking.take import swap_module
from frameworks.core.policy import LayerBits, Policy
from frameworks.core.quantizers.base import Quantizer, Scheme
from frameworks.core.quantizers.uniform import MinMax
from frameworks.core.randomness import seeded, torch_rng
from frameworks.testing import toy


def images(shape, count=4):
    return torch.randn(count, *shape, generator=torch_rng(0, "images"))


def quantized(net, shape, scheme=None):
    layers = describe(net, shape)
    calibration = observe(net, layers, images(shape), torch_rng(0))
    return QModel(net, layers, scheme or MinMax(), calibration).eval()


def state(net):
    return {name: x.clone() for name, x in net.state_dict().items()}


def unchanged(net, before):
    now = net.state_dict()
    return list(now) == list(before) and all(
        torch.equal(now[name], x) for name, x in before.items()
    )


@torch.no_grad()
def run(net, x):
    return net(x)


def same(bits, layers):
    return Policy.uniform(layers, bits, bits)


PLAIN = {
    "conv1d": (lambda: nn.Conv1d(4, 6, 3, stride=2, padding=1), (4, 9)),
    "conv2d": (lambda: nn.Conv2d(3, 6, (3, 1), stride=2, padding=(1, 0)), (3, 8, 8)),
    "circular": (lambda: nn.Conv2d(3, 6, 3, padding=1, padding_mode="circular"), (3, 8, 8)),
    "same": (lambda: nn.Conv2d(3, 6, 3, padding="same", bias=False), (3, 8, 8)),
    "grouped": (lambda: nn.Conv2d(4, 8, 3, groups=2, dilation=2), (4, 8, 8)),
    "depthwise": (lambda: nn.Conv2d(4, 4, 3, groups=4), (4, 8, 8)),
    "linear": (lambda: nn.Linear(5, 3), (5,)),
    "tokens": (lambda: nn.Linear(5, 3, bias=False), (7, 5)),
}


@pytest.fixture(params=PLAIN)
def plain(request):
    make, shape = PLAIN[request.param]
    with seeded(0):
        return nn.Sequential(make()), shape


def test_float_bits_are_the_float_layer(plain):
    net, shape = plain
    q, x = quantized(net, shape), images(shape)
    q.fix(same(32, q.layers))
    assert torch.equal(run(q, x), run(net, x))
    q.free(same(32, q.layers))
    assert torch.equal(run(q, x), run(net, x))


@pytest.mark.parametrize("mode", ["fix", "free"])
def test_quantized_layer_is_the_float_one_on_quantized_tensors(plain, mode):
    net, shape = plain
    q, x = quantized(net, shape), images(shape)
    getattr(q, mode)(Policy({"0": (3, 4)}))
    changed = copy.deepcopy(net)
    weight = net[0].weight.detach()
    changed[0].weight.data = MinMax().weight(weight, 3)(weight)
    inputs = MinMax().activation(x.flatten(), 4)(x)
    torch.testing.assert_close(run(q, x), run(changed, inputs), rtol=1e-6, atol=1e-6)
    assert not torch.allclose(run(q, x), run(net, x), atol=1e-3)


def test_bits_of_each_output_channel(plain):
    net, shape = plain
    q, x = quantized(net, shape), images(shape)
    count = len(net[0].weight)
    bits = tuple((0, 2, 8, 32)[i % 4] for i in range(count))
    weight = net[0].weight.detach()
    rows = [MinMax().weight(weight[i : i + 1], b)(weight[i : i + 1]) for i, b in enumerate(bits)]
    for mode in ("fix", "free"):
        getattr(q, mode)(Policy({"0": (bits, 32)}))
        torch.testing.assert_close(q.qlayer("0").weight.detach(), torch.cat(rows))
        assert torch.equal(run(q, x), run_layer(net[0], x, torch.cat(rows)).detach())


def test_pruned_layers(plain):
    net, shape = plain
    q, x = quantized(net, shape), images(shape)
    for mode in ("fix", "free"):
        getattr(q, mode)(Policy({"0": (0, 32)}))
        out = run(q, x)
        bias = net[0].bias
        assert torch.equal(out, out[..., :1].expand_as(out) if bias is None else out)
        expected = run_layer(net[0], x, torch.zeros_like(net[0].weight))
        assert torch.equal(out, expected.detach())
        getattr(q, mode)(Policy({"0": (32, 0)}))
        assert torch.equal(run(q, x), run(net, torch.zeros_like(x)))


def test_a_network_that_is_one_layer():
    with seeded(0):
        net = nn.Linear(5, 3)
    q, x = quantized(net, (5,)), images((5,))
    q.fix(Policy({"": (32, 32)}))
    assert torch.equal(run(q, x), run(net, x))
    q.fix(Policy({"": (2, 32)}))
    assert torch.equal(run(q, x), functional.linear(x, q.qlayer("").weight, net.bias).detach())


TIMM = {
    "resnet18": {},
    "mobilenetv3_small_050": {},
    "convnext_atto": {},
    "tf_efficientnet_lite0": {},  # padding of its own
    "vit_tiny_patch16_224": {"img_size": 32, "patch_size": 8},
    "nf_ecaresnet26": {},  # standardised weights, a Conv1d
}


@pytest.fixture(scope="module", params=TIMM)
def family(request):
    with seeded(0):
        net = timm.create_model(request.param, num_classes=4, **TIMM[request.param]).eval()
    before = state(net)
    return net, before, quantized(net, (3, 32, 32))


def test_families_equal_float_at_float_bits(family):
    net, before, q = family
    x = images((3, 32, 32))
    expected = run(net, x)
    for mode in (q.fix, q.free):
        mode(same(32, q.layers))
        assert torch.equal(run(q, x), expected)
    assert unchanged(net, before)


def test_families_wrap_every_layer_and_give_gradients(family):
    net, before, q = family
    assert sum(isinstance(m, QLayer) for m in q.modules()) == len(q.layers)
    assert not any(isinstance(m, QLayer) for m in net.modules())
    q.fix(same(4, q.layers))
    out = run(q, images((3, 32, 32)))
    assert torch.isfinite(out).all()
    assert not torch.equal(out, run(net, images((3, 32, 32))))
    q.free(same(4, q.layers))
    q(images((3, 32, 32))).square().sum().backward()
    for name, layer in q.qlayers():
        assert layer.inner.weight.grad is not None, name
        assert layer.weight_quantizer.step.grad is not None, name
        assert layer.act_quantizer.step.grad is not None, name
    q.zero_grad()
    assert unchanged(net, before)
    assert all(p.grad is None for p in net.parameters())


@pytest.fixture
def problem():
    return toy.make_problem()


def test_fix_and_free_set_the_policy_and_change_nothing_else(problem):
    q, rng = problem.quantized(), problem.rng()
    parameters = {
        name: x.clone() for name, x in q.model.state_dict().items() if "quantizer" not in name
    }
    for mode in (q.fix, q.free, q.fix):
        policy = problem.space.sample(rng)
        assert mode(policy) is q
        assert q.policy == policy
        now = q.model.state_dict()
        assert all(torch.equal(now[name], x) for name, x in parameters.items())
        assert set(parameters) == {name for name in now if "quantizer" not in name}
        assert not q.training


def test_fix_does_not_depend_on_the_policies_before(problem):
    q, rng, x = problem.quantized(), problem.rng(), problem.images[:8]
    policies = [problem.space.sample(rng) for _ in range(4)]
    mixed = policies[0].replace("blocks.0.conv1", weight=(2, 4, 8, 2, 4, 8, 32, 0))
    for policy in [*policies, mixed, *policies[::-1]]:
        fresh = problem.quantized(policy)
        assert torch.equal(run(q.fix(policy), x), run(fresh, x))


def test_fix_and_free_agree_before_training(problem):
    q, x = problem.quantized(), problem.images[:8]
    for policy in (problem.space.lowest(), problem.space.reference(5, 3)):
        fixed = run(q.fix(policy), x)
        torch.testing.assert_close(run(q.free(policy), x), fixed, rtol=1e-5, atol=1e-6)


def test_fixed_layers_give_no_gradient_to_weights_and_free_ones_do(problem):
    q, policy = problem.quantized(), problem.space.reference(4, 4)
    q.fix(policy)
    x = problem.images[:8].clone().requires_grad_()
    q(x).sum().backward()
    assert x.grad.abs().sum() > 0
    assert all(layer.inner.weight.grad is None for _, layer in q.qlayers())
    assert not q.range_parameters()
    q.free(policy)
    q(problem.images[:8]).square().sum().backward()
    assert all(layer.inner.weight.grad.abs().sum() > 0 for _, layer in q.qlayers())


def test_parameters_are_weights_or_ranges(problem):
    q = problem.quantized().free(problem.space.reference(4, 4))
    weights, ranges = q.weight_parameters(), q.range_parameters()
    assert len(ranges) == 2 * len(q.layers)
    ids = [id(p) for p in [*weights, *ranges]]
    assert len(ids) == len(set(ids))
    assert set(ids) == {id(p) for p in q.parameters() if p.requires_grad}
    assert len(weights) == len(list(problem.network.parameters()))


def test_free_forgets_the_weights_it_was_fixed_at(problem):
    """Training after ``free`` must show in a later ``fix``."""
    q, policy = problem.quantized(), problem.space.reference(4, 4)
    q.fix(policy)
    q.free(policy)
    layer = q.qlayer("fc")
    with torch.no_grad():
        layer.inner.weight.mul_(2)
    old = problem.quantized(policy).qlayer("fc").weight
    torch.testing.assert_close(q.fix(policy).qlayer("fc").weight, 2 * old)


def test_learned_ranges_stay_with_their_layer(problem):
    """Training the ranges of one network leaves calibration as it was."""
    q, policy = problem.quantized(), problem.space.reference(4, 4)
    q.free(policy)
    with torch.no_grad():
        q.qlayer("fc").act_quantizer.step.mul_(7)
    expected = problem.quantized(policy).qlayer("fc").act_quantizer.step
    assert torch.equal(q.fix(policy).qlayer("fc").act_quantizer.step, expected)


class Counting(Scheme):
    """Counts how often quantizers are made."""

    name = "counting"

    def __init__(self):
        self.made = []

    def weight_quantizer(self, weight, bits):
        self.made.append(("weight", bits))
        return MinMax().weight_quantizer(weight, bits)

    def activation_quantizer(self, sample, bits):
        self.made.append(("act", bits))
        return MinMax().activation_quantizer(sample, bits)


def test_fix_calibrates_once_per_layer_and_bits():
    with seeded(0):
        net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    scheme = Counting()
    q = quantized(net, (3,), scheme)
    for first, second in ((2, 4), (4, 2), (2, 2), (4, 4), (2, 4)):
        q.fix(Policy({"0": (first, second), "1": (second, first)}))
    assert sorted(scheme.made) == sorted(
        [(kind, bits) for kind in ("weight", "act") for bits in (2, 4)] * 2
    )


class Broken(Quantizer):
    def forward(self, x):
        return x.no_such_thing

    def codes(self, x):
        raise NotImplementedError


class BrokenScheme(Scheme):
    def weight_quantizer(self, weight, bits):
        return Broken()

    def activation_quantizer(self, sample, bits):
        return MinMax().activation_quantizer(sample, bits)


def test_a_quantizer_that_fails_is_never_replaced_by_the_float_weight():
    with seeded(0):
        net = nn.Sequential(nn.Linear(3, 3))
    q = quantized(net, (3,), BrokenScheme()).free(Policy({"0": (4, 4)}))
    with pytest.raises(AttributeError, match="no_such_thing"):
        q(images((3,)))
    with pytest.raises(AttributeError):
        _ = q.qlayer("0").weight


class Tied(nn.Module):
    """One layer under two names and in two calls, and one that reads another's weight."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.parts = nn.ModuleList([self.first, nn.Linear(4, 4)])

    def forward(self, x):
        x = self.parts[1](self.parts[0](self.first(x)))
        return functional.linear(x, self.first.weight) + self.first.out_features


def test_a_layer_of_two_names_is_wrapped_once_and_its_weight_can_be_read():
    with seeded(0):
        net = Tied()
    q, x = quantized(net, (4,)), images((4,))
    assert [layer.name for layer in q.layers] == ["first", "parts.1"]
    assert q.model.parts[0] is q.model.first
    q.fix(same(32, q.layers))
    assert torch.equal(run(q, x), run(net, x))
    q.fix(Policy({"first": (2, 32), "parts.1": (32, 32)}))
    weight = MinMax().weight(net.first.weight.detach(), 2)(net.first.weight.detach())
    changed = copy.deepcopy(net)
    changed.first.weight.data = weight
    assert torch.equal(run(q, x), run(changed, x))
    assert torch.equal(q.model.first.weight, weight)


def test_copies_and_state_dicts(problem):
    policy, x = problem.space.reference(3, 3), problem.images[:8]
    q = problem.quantized(policy)
    expected = run(q, x)
    other = copy.deepcopy(q)
    other.fix(problem.space.lowest())
    assert torch.equal(run(q, x), expected)
    free = problem.quantized().free(policy)
    with torch.no_grad():
        for p in free.parameters():
            p.mul_(1.01)
    twin = problem.quantized().free(policy)
    twin.load_state_dict(free.state_dict())
    assert torch.equal(run(twin, x), run(free, x))


def test_a_policy_must_name_every_layer(problem):
    with pytest.raises(KeyError):
        problem.quantized().fix(Policy({"stem": (8, 8)}))


def test_a_sample_for_every_layer_is_needed(problem):
    with pytest.raises(KeyError):
        QModel(problem.network, problem.layers, problem.scheme, Calibration({}))


def test_swap_module():
    net, new = nn.Sequential(nn.Sequential(nn.Linear(1, 1))), nn.Identity()
    assert swap_module(net, "0.0", new) is net
    assert net[0][0] is new
    assert swap_module(net, "", new) is new


def test_unused_bits_are_float_at_first(problem):
    q = QModel(problem.network, problem.layers, problem.scheme, problem.observe()).eval()
    assert q.policy == Policy.uniform(problem.layers, 32, 32)
    assert {entry for entry in q.policy.values()} == {LayerBits(32, 32)}
    assert torch.equal(run(q, problem.images[:4]), run(problem.network, problem.images[:4]))


@pytest.mark.parametrize("kind", [toy.ToyConvNet, toy.ToyViT])
def test_float_state_fits_the_float_model(kind):
    net = copy.deepcopy(toy.network(kind))
    model = quantized(net, toy.SHAPE)
    model.free(Policy.uniform(model.layers, 4, 4))
    assert unchanged(net, model.float_state())
    first = model.layers[0].name
    with torch.no_grad():
        model.qlayer(first).inner.weight.add_(1)
    state_now = model.float_state()
    assert torch.equal(state_now[f"{first}.weight"], net.get_submodule(first).weight + 1)
    net.load_state_dict(state_now)


@pytest.mark.parametrize("bits", [3, (2, 0, 4, 8, 4, 2)])
def test_what_is_kept_of_weights_moves_with_the_network(bits):
    """Quantized weights are no buffers, so that moving must take care of them."""
    net = nn.Sequential(nn.Conv2d(3, 6, 3))
    model, x = quantized(net, (3, 8, 8)), images((3, 8, 8))
    for rounded in (False, True):
        model.fix(Policy({"0": LayerBits(bits, 4)}))
        ((_, layer),) = model.qlayers()
        if rounded:
            layer.round(layer.codes())
        wanted, codes = run(model, x), layer.codes()
        moved = copy.deepcopy(model).double()
        ((_, other),) = moved.qlayers()
        assert other.weight.dtype == other.codes().dequantize().dtype == torch.float64
        assert torch.equal(other.codes().code.float(), codes.code.float())
        assert run(moved, x.double()).float() == pytest.approx(wanted, abs=1e-5)
        assert layer.weight.dtype == torch.float32
