"""Computed weights become plain ones: values, states both ways, and the given network as it was."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune, spectral_norm, weight_norm

from frameworks import (
    BudgetSpec,
    Data,
    Policy,
    Problem,
    Recipe,
    Space,
    TensorSplit,
    describe,
    schemes,
    targets,
)
from frameworks.core.networks.taking.bake import copied, mask_of
from frameworks.core.networks.taking.take import given_state, load_state, taken


class Doubled(nn.Module):
    """A parametrization without an inverse."""

    def forward(self, x):
        return 2 * x


def half(module):
    return prune.l1_unstructured(module, "weight", 0.5)


def doubled(module):
    parametrize.register_parametrization(module, "weight", Doubled())
    return module


RULES = {
    "weight_norm": parametrizations.weight_norm,
    "orthogonal": parametrizations.orthogonal,
    "spectral_norm": parametrizations.spectral_norm,
    "old_weight_norm": weight_norm,
    "old_weight_norm_whole": lambda m: weight_norm(m, dim=None),
    "old_spectral_norm": spectral_norm,
    "prune": half,
    "prune_twice": lambda m: half(half(m)),
    "doubled": doubled,
}
RECIPE = Recipe(epochs=2, batch=16, lr=0.1)
INVERTIBLE = {"weight_norm", "old_weight_norm", "old_weight_norm_whole", "prune", "prune_twice"}


def network(rule):
    torch.manual_seed(0)
    middle = RULES[rule](nn.Conv2d(8, 8, 3))
    net = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.ReLU(), middle, nn.ReLU(), nn.Flatten(), nn.Linear(128, 4)
    ).eval()
    with torch.no_grad():
        net(torch.rand(2, 1, 8, 8))
    return net


def plain_entries(state):
    return {key for key in state if key.startswith("2.") and key not in ("2.weight", "2.bias")}


@pytest.mark.parametrize("rule", RULES)
def test_the_taken_network_computes_the_same_from_a_plain_weight(rule):
    net, x = network(rule), torch.rand(4, 1, 8, 8)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    made = taken(net)
    with torch.no_grad():
        assert torch.allclose(made(x), net(x), atol=1e-5)
    assert type(made[2]) is nn.Conv2d
    assert isinstance(made[2]._parameters["weight"], nn.Parameter)
    assert not made[2]._forward_pre_hooks
    after = net.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[k], after[k]) for k in before)
    with torch.no_grad():
        net(x)  # the given network still computes its weight itself


@pytest.mark.parametrize("rule", RULES)
def test_states_come_back_in_the_names_of_the_given_network(rule):
    net, x = network(rule), torch.rand(4, 1, 8, 8)
    made = taken(net)
    with torch.no_grad():
        mask = mask_of(made[2])
        moved = torch.randn_like(made[2].weight) * (1 if mask is None else mask)
        made[2].weight.copy_(moved)
    state = given_state(made, made.state_dict())
    if rule not in INVERTIBLE:
        assert not plain_entries(state)
    else:
        again = copy.deepcopy(net)
        again.load_state_dict({k: state[k] for k in again.state_dict()})
        with torch.no_grad():
            assert torch.allclose(again.eval()(x), made(x), atol=1e-5)


@pytest.mark.parametrize("rule", RULES)
def test_a_state_of_the_given_network_can_be_loaded(rule):
    net, other, x = network(rule), network(rule), torch.rand(4, 1, 8, 8)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        other(x)
    made = taken(net)
    load_state(made, other.state_dict())
    with torch.no_grad():
        assert torch.allclose(made(x), other(x), atol=1e-5)
    load_state(made, given_state(taken(net), taken(net).state_dict()))
    with torch.no_grad():
        assert torch.allclose(made(x), net(x), atol=1e-5)


def test_taking_twice_changes_nothing():
    made = taken(network("weight_norm"))
    assert taken(made) is made
    plain = nn.Sequential(nn.Linear(2, 2))
    assert taken(plain) is plain


class Keeping(nn.Linear):
    """Keeps a result with a graph in every place."""

    def forward(self, x):
        y = super().forward(x)
        self.last, self.held = y, {"parts": [(y, y + 1)]}
        self.register_buffer("mean", y.mean())
        return y


def test_a_copy_has_the_values_of_what_has_a_graph_wherever_it_is_kept():
    net = nn.Sequential(weight_norm(nn.Linear(3, 3)), Keeping(3, 2))
    x = torch.rand(4, 3)
    y = net(x)
    made = copied(net)
    first, second = made[1].held["parts"][0]
    assert made[1].last is first
    kept = [made[0].weight, first, second, made[1].mean]
    for value, expected in zip(kept, [net[0].weight, y, y + 1, y.mean()], strict=True):
        assert torch.equal(value, expected)
        assert not value.requires_grad
    assert net[1].last is y
    assert y.grad_fn is not None
    assert torch.equal(made(x), y)
    assert all(parameter.requires_grad for parameter in made.parameters())


def problem_of(net, shape):
    x, y = torch.rand(64, *shape), torch.randint(4, (64,))
    space, target = Space.build(describe(net, shape), (4,), (4,)), targets.get("size")()
    return Problem(
        network=net, space=space, target=target, budget=BudgetSpec(like=8).resolve(target, space),
        scheme=schemes.get("mse")(), data=Data(TensorSplit(x, y), TensorSplit(x, y), x),
        retrains=True,
    )  # fmt: skip


def test_pruned_weights_stay_pruned_through_fine_tuning():
    net = network("prune")
    problem = problem_of(net, (1, 8, 8))
    policy = Policy.uniform(problem.layers, 4, 4)
    state = problem.fine_tune(policy, RECIPE).float_state()
    mask = net[2].weight_mask.bool()
    before = net[2].weight_orig.detach()
    assert not torch.equal(state["2.weight"][mask], before[mask])
    assert not state["2.weight"][~mask].any()
    assert torch.equal(state["2.weight_mask"], net[2].weight_mask)
    assert problem.evaluator(state)(policy).loss > 0


class Cut(nn.Module):
    """A network with one pruned tensor, named by where it lies."""

    def __init__(self, tensor):
        super().__init__()
        self.tensor, self.stem, self.head = tensor, nn.Linear(6, 6), nn.Linear(6, 4)
        self.part = {
            "read.weight": lambda: nn.Linear(6, 6),
            "bare": lambda: None,
            "in_proj_weight": lambda: nn.MultiheadAttention(6, 2, batch_first=True),
            "k_proj_weight": lambda: nn.MultiheadAttention(6, 2, kdim=5, vdim=5, batch_first=True),
            "weight_hh_l0": lambda: nn.LSTM(6, 6, batch_first=True),
            "weight_ih": lambda: nn.GRUCell(6, 6),
        }[tensor]()
        if tensor == "bare":
            self.bare = nn.Parameter(torch.randn(6, 6))
        prune.random_unstructured(self.part or self, tensor.rpartition(".")[2], 0.5)

    def forward(self, x):
        x = self.stem(x.flatten(1, 2)).relu()
        if self.tensor in ("read.weight", "bare"):
            weight = self.bare if self.part is None else self.part.weight
            x = nn.functional.linear(x, weight).relu()
        elif self.tensor == "in_proj_weight":
            x = self.part(x, x, x)[0]
        elif self.tensor == "k_proj_weight":
            x = self.part(x, x[..., :5], x[..., :5])[0]
        else:
            x = self.part(x)[0] if self.tensor == "weight_hh_l0" else self.part(x.mean(1))[:, None]
        return self.head(x.mean(1))


@pytest.mark.parametrize(
    ("tensor", "names"),
    [
        ("read.weight", ["part"]),
        ("bare", ["bare_read"]),
        ("in_proj_weight", ["part.q_proj", "part.k_proj", "part.v_proj"]),
        ("k_proj_weight", ["part.k_proj"]),
        ("weight_hh_l0", ["part.hh_l0"]),
        ("weight_ih", ["part.ih"]),
    ],
)
def test_pruned_entries_stay_pruned_wherever_the_mask_lies(tensor, names):
    torch.manual_seed(0)
    net = Cut(tensor).eval()
    mask = next(b for n, b in net.named_buffers() if n.endswith("_mask")).bool()
    before = next(p for n, p in net.named_parameters() if n.endswith("_orig"))
    problem = problem_of(net, (1, 5, 6))
    tuned = problem.fine_tune(Policy.uniform(problem.layers, 4, 4), RECIPE)
    layers = [tuned.qlayer(name) for name in names]
    trained = torch.cat([layer.inner.weight for layer in layers])
    assert not torch.isclose(trained, before)[mask].all()
    assert not trained[~mask].any()
    assert not torch.cat([layer.weight for layer in layers])[~mask].any()


class Tied(nn.Module):
    """Two layers with one weight, each of them pruned by a mask or not at all."""

    def __init__(self, one, two):
        super().__init__()
        self.stem, self.one, self.two = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6)
        self.two.weight = self.one.weight
        for layer, mask in ((self.one, one), (self.two, two)):
            if mask is not None:
                prune.custom_from_mask(layer, "weight", mask)

    def forward(self, x):
        return self.two(self.one(self.stem(x.flatten(1)).relu()).relu())


UPPER = torch.ones(6, 6).triu()


@pytest.mark.parametrize(("one", "two"), [(UPPER, None), (None, UPPER), (UPPER, UPPER.T)])
def test_one_weight_that_is_pruned_in_two_ways_is_refused_by_name(one, two):
    net = Tied(one, two).eval()
    message = r"one\.weight and two\.weight are one tensor, but are not pruned alike"
    with pytest.raises(ValueError, match=message):
        describe(net, (1, 6, 1))
    with pytest.raises(ValueError, match=message):
        taken(net)


@pytest.mark.parametrize("mask", [UPPER, None])
def test_one_weight_that_is_pruned_in_one_way_stays_one(mask):
    net, x = Tied(mask, mask).eval(), torch.randn(4, 1, 6, 1)
    prune.random_unstructured(net.stem, "weight", 0.5)
    made = taken(net)
    with torch.no_grad():
        assert torch.allclose(made(x), net(x))
    assert made.one.weight is made.two.weight
    assert [layer.shared for layer in describe(net, (1, 6, 1))] == ["", "", "one"]


def test_a_weight_computed_in_another_way_is_refused_by_name():
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(144, 4))
    weight = net[0].weight
    del net[0]._parameters["weight"]
    net[0].own = weight
    net[0].register_forward_pre_hook(lambda m, _: setattr(m, "weight", m.own * 1))
    with pytest.raises(ValueError, match="layer 0: its weight is computed on each call"):
        describe(net, (1, 8, 8))
