"""Attention, recurrent modules and transposed convolutions written out, against torch's own."""

import copy
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrizations, prune
from torch.utils.flop_counter import FlopCounterMode

from frameworks import (
    BudgetSpec,
    Data,
    Policy,
    Problem,
    QModel,
    Recipe,
    Space,
    TensorSplit,
    account,
    describe,
    observe,
    schemes,
    targets,
    torch_rng,
)
from frameworks.core.networks.taking.attention import Attention
from frameworks.core.networks.taking.bake import mask_of
from frameworks.core.networks.taking.recurrent import Cell, Recurrent
from frameworks.core.networks.taking.take import given_state, load_state, taken
from frameworks.core.networks.taking.transposed import Transposed, inputs_first, outputs_first

CLOSE = {"rtol": 1e-4, "atol": 1e-5}


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("cross", [False, True])
@pytest.mark.parametrize(
    "options", [{}, {"bias": False}, {"add_bias_kv": True}, {"add_zero_attn": True}]
)
@pytest.mark.parametrize("weights", [None, True, False])
def test_attention_is_that_of_torch(batch_first, cross, options, weights):
    torch.manual_seed(0)
    theirs = nn.MultiheadAttention(12, 3, batch_first=batch_first, **options).eval()
    if cross:
        theirs = nn.MultiheadAttention(
            12, 3, batch_first=batch_first, kdim=5, vdim=7, **options
        ).eval()
    ours = Attention(theirs)
    shape = (2, 4) if batch_first else (4, 2)
    q = torch.randn(*shape, 12)
    k, v = (torch.randn(*shape, 5), torch.randn(*shape, 7)) if cross else (q, q)
    average = bool(weights)
    kwargs = {"need_weights": weights is not None, "average_attn_weights": average}
    padding = torch.tensor([[False, False, True, False], [False] * 4])
    causal = torch.triu(torch.ones(4, 4, dtype=torch.bool), 1)
    for masks in ({}, {"key_padding_mask": padding}, {"attn_mask": causal},
                  {"attn_mask": torch.randn(6, 4, 4)}):  # fmt: skip
        with torch.no_grad():
            (a, b), (c, d) = theirs(q, k, v, **kwargs, **masks), ours(q, k, v, **kwargs, **masks)
        assert torch.allclose(a, c, **CLOSE)
        assert (b is None) == (d is None)
        assert b is None or torch.allclose(b, d, **CLOSE)


def test_attention_without_a_batch():
    torch.manual_seed(0)
    theirs = nn.MultiheadAttention(8, 2).eval()
    x = torch.randn(5, 8)
    with torch.no_grad():
        (a, b), (c, d) = theirs(x, x, x), Attention(theirs)(x, x, x)
    assert torch.allclose(a, c, **CLOSE)
    assert torch.allclose(b, d, **CLOSE)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize("two", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_recurrent_modules_are_those_of_torch(kind, two, batch_first, bias):
    torch.manual_seed(0)
    theirs = kind(5, 6, num_layers=2, bidirectional=two, batch_first=batch_first, bias=bias).eval()
    ours, x = Recurrent(theirs), torch.randn(3, 4, 5)
    flat = list(itertools.chain(theirs(x), theirs(x, theirs(x)[1])))
    made = list(itertools.chain(ours(x), ours(x, ours(x)[1])))
    assert len(flat) == len(made)
    for one, other in zip(flat, made, strict=True):
        for a, b in zip(_leaves(one), _leaves(other), strict=True):
            assert torch.allclose(a, b, **CLOSE)
    assert torch.allclose(theirs(x[0])[0], ours(x[0])[0], **CLOSE)


def test_projections_and_nonlinearities_of_recurrent_modules():
    torch.manual_seed(0)
    x = torch.randn(3, 4, 5)
    for theirs in (
        nn.LSTM(5, 6, proj_size=3, num_layers=2, bidirectional=True),
        nn.RNN(5, 6, nonlinearity="relu"),
    ):
        assert torch.allclose(theirs(x)[0], Recurrent(theirs)(x)[0], **CLOSE)
    with pytest.raises(TypeError, match="packed sequence"):
        Recurrent(nn.GRU(5, 6))(nn.utils.rnn.pack_padded_sequence(x, torch.tensor([3, 3, 3, 3])))


@pytest.mark.parametrize("kind", [nn.LSTMCell, nn.GRUCell, nn.RNNCell])
def test_cells_are_those_of_torch(kind):
    torch.manual_seed(0)
    theirs, x = kind(5, 6), torch.randn(3, 5)
    ours = Cell(theirs)
    first, made = theirs(x), ours(x)
    pairs = [(first, made), (theirs(x, first), ours(x, made)), (theirs(x[0]), ours(x[0]))]
    for one, other in pairs:
        for a, b in zip(_leaves(one), _leaves(other), strict=True):
            assert torch.allclose(a, b, **CLOSE)


def _leaves(value):
    return [value] if isinstance(value, torch.Tensor) else [x for v in value for x in _leaves(v)]


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.sampled_from([(3,), (2, 3)]))
def test_layouts_of_transposed_weights_are_each_other_s_inverse(groups, first, second, kernel):
    given_ = torch.randn(groups * first, second, *kernel)
    turned = outputs_first(given_, groups)
    assert turned.shape == (groups * second, first, *kernel)
    assert torch.equal(inputs_first(turned, groups), given_)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("dims", [1, 2])
def test_transposed_convolutions_are_those_of_torch(groups, dims):
    torch.manual_seed(0)
    make = (nn.ConvTranspose1d, nn.ConvTranspose2d)[dims - 1]
    theirs = make(4, 6, 4, 2, 1, output_padding=1, groups=groups, dilation=2)
    ours, x = Transposed(theirs), torch.randn(2, 4, *(5,) * dims)
    assert torch.allclose(theirs(x), ours(x), **CLOSE)
    assert torch.equal(ours.state_dict()["weight"], theirs.weight)
    again = Transposed(copy.deepcopy(theirs))
    again.weight.data.zero_()
    again.load_state_dict(theirs.state_dict())
    assert torch.equal(again.weight, ours.weight)


class Mixed(nn.Module):
    """One of each."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, padding=1)
        self.up = nn.ConvTranspose2d(8, 6, 4, 2, 1, groups=2)
        self.rows = nn.LSTM(6, 5, bidirectional=True, batch_first=True)
        self.attention = nn.MultiheadAttention(10, 2, batch_first=True)
        self.bare = nn.ParameterList([nn.Parameter(torch.randn(7, 10) / 3)])
        self.encoder = nn.TransformerEncoder(
            nn.TransformerEncoderLayer(10, 2, 16, batch_first=True), 2, enable_nested_tensor=False
        )
        self.position = nn.Parameter(torch.randn(1, 64, 10) / 3)
        self.head = nn.Linear(7, 4)

    def forward(self, x):
        x = self.up(torch.relu(self.stem(x))).mean(2, keepdim=True).flatten(2).transpose(1, 2)
        x = self.rows(x)[0] + self.position[:, : x.shape[1]]
        x = self.encoder(x + self.attention(x, x, x)[0])
        x = nn.functional.linear(x, self.bare[0]).mean(1)
        return self.head(x)


def mixed():
    torch.manual_seed(0)
    return Mixed().eval()


NAMES = [
    "stem", "up", "rows.ih_l0", "rows.hh_l0", "rows.ih_l0_reverse", "rows.hh_l0_reverse",
    *(f"attention.{part}_proj" for part in ("k", "v", "q", "out")),
    *(
        f"encoder.layers.{i}.{part}"
        for i in (0, 1)
        for part in (
            *(f"self_attn.{p}_proj" for p in ("k", "v", "q", "out")), "linear1", "linear2"
        )
    ),
    "bare.0_read", "head",
]  # fmt: skip


def test_every_weight_of_a_mixed_network_is_a_layer_and_priced():
    net = mixed()
    layers = describe(net, (1, 8, 8))
    assert [layer.name for layer in layers] == NAMES
    found = account(net, layers, (1, 8, 8))
    weights = sum(p.numel() for p in net.parameters() if p.dim() > 1)
    assert found.left == {"position": 640}
    assert not found.unused
    assert found.quantized == weights - 640
    cost = targets.get("size")().cost(layers, Policy.uniform(layers, 8, 8))
    assert cost["size"] == weights - 640
    up = layers[1]
    assert (up.transposed, up.macs, up.out_size) == (True, 64 * up.params, (16, 16))


def test_macs_of_a_mixed_network_are_those_of_torch_s_counter():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.up = nn.ConvTranspose2d(4, 6, 4, 2, 1, groups=2)
            self.flat = nn.ConvTranspose1d(6, 3, 3, 2)
            self.head = nn.Linear(3, 2)

        def forward(self, x):
            return self.head(self.flat(self.up(x).flatten(2)).mean(2))

    net = Net()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(torch.zeros(1, 4, 5, 7))
    layers = describe(net, (4, 5, 7))
    assert 2 * sum(layer.macs for layer in layers) == counter.get_total_flops()


def test_each_layer_s_bits_change_the_output_and_float_bits_do_not():
    net, x = mixed(), torch.randn(4, 1, 8, 8)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    layers = describe(net, (1, 8, 8))
    with torch.no_grad():
        model = QModel(net, layers, schemes.get("mse")(), observe(net, layers, x, torch_rng(0)))
        model.eval()
        whole = Policy.uniform(layers, 32, 32)
        expected = net(x)
        assert torch.allclose(model.fix(whole)(x), expected, **CLOSE)
        for layer in layers:
            for change in ({"weight": 2}, {"act": 2}):
                here = model.fix(whole.replace(layer.name, **change))(x)
                assert float((here - expected).abs().max()) > 1e-4, (layer.name, change)
                with torch.enable_grad():
                    assert torch.allclose(model(x), here, **CLOSE), (layer.name, change)
    after = net.state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before)


def test_states_of_a_mixed_network_go_both_ways():
    net, x = mixed(), torch.randn(4, 1, 8, 8)
    layers = describe(net, (1, 8, 8))
    model = QModel(net, layers, schemes.get("mse")(), observe(net, layers, x, torch_rng(0)))
    state = model.free(Policy.uniform(layers, 32, 32)).float_state()
    for key, value in net.state_dict().items():
        assert torch.equal(state[key], value), key
    other = mixed()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.5)
        made = taken(net, ["bare.0_read"])
        load_state(made, other.state_dict())
        assert torch.allclose(made(x), other(x), **CLOSE)
        load_state(made, given_state(taken(net, ["bare.0_read"]), state))
        assert torch.allclose(made(x), net(x), **CLOSE)


@pytest.mark.parametrize("frozen", [False, True])
def test_what_is_trained_in_the_given_network_is_trained_in_the_taken_one(frozen):
    net = mixed()
    net.requires_grad_(not frozen)
    made = taken(net, ["bare.0_read"])
    assert {p.requires_grad for p in made.parameters()} == {not frozen}


class Pair(nn.Module):
    """Two modules of a kind, of which the second has the weights of the first."""

    def __init__(self, kind):
        super().__init__()
        make = {
            "transposed": lambda: nn.ConvTranspose1d(6, 6, 3, padding=1),
            "attention": lambda: nn.MultiheadAttention(6, 2, batch_first=True),
            "recurrent": lambda: nn.GRU(6, 6, batch_first=True),
            "memory": lambda: nn.Linear(6, 6),
        }[kind]
        self.kind, self.one, self.two, self.head = kind, make(), make(), nn.Linear(6, 4)
        if kind == "memory":
            self.two.weight.data = self.one.weight.data
        for name, parameter in list(self.one.named_parameters()):
            if parameter.dim() > 1 and "." not in name and kind != "memory":
                setattr(self.two, name, parameter)

    def forward(self, x):
        x = x.flatten(1, 2)
        for part in (self.one, self.two):
            if self.kind == "attention":
                x = x + part(x, x, x)[0]
            elif self.kind == "recurrent":
                x = part(x)[0]
            else:
                x = part(x.transpose(1, 2)).transpose(1, 2) if self.kind != "memory" else part(x)
        return self.head(x.mean(1))


@pytest.mark.parametrize("kind", ["transposed", "attention", "recurrent", "memory"])
def test_what_is_stored_once_is_one_choice_and_stays_one_weight(kind):
    torch.manual_seed(0)
    net, x = Pair(kind).eval(), torch.randn(32, 1, 5, 6)
    layers = describe(net, (1, 5, 6))
    stored = {p.untyped_storage().data_ptr(): p.numel() for p in net.parameters() if p.dim() > 1}
    size = targets.get("size")().cost(layers, Policy.uniform(layers, 8, 8))["size"]
    assert size == sum(stored.values())
    space, target = Space.build(layers, (4,), (4,)), targets.get("size")()
    split = TensorSplit(x, torch.randint(4, (32,)))
    problem = Problem(
        network=net, space=space, target=target, budget=BudgetSpec(like=8).resolve(target, space),
        scheme=schemes.get("mse")(), data=Data(split, split, x), retrains=True,
    )  # fmt: skip
    tuned = problem.fine_tune(Policy.uniform(layers, 4, 4), Recipe(epochs=2, batch=8, lr=0.1))
    before = dict(taken(net).named_parameters(remove_duplicate=False))
    for layer in layers:
        weight = tuned.qlayer(layer.name).inner.weight
        assert not torch.equal(weight, before[f"{layer.name}.weight"]), layer.name
        if layer.shared:
            assert weight is tuned.qlayer(layer.shared).inner.weight
    assert any(layer.shared for layer in layers)
    problem.evaluator(tuned.float_state())(Policy.uniform(layers, 4, 4))


@pytest.mark.parametrize("rule", [parametrizations.weight_norm, "prune"])
@pytest.mark.parametrize("part", ["rows.weight_hh_l0", "attention.in_proj_weight"])
def test_computed_weights_inside_rewritten_modules_go_both_ways(rule, part):
    net, x = mixed(), torch.randn(4, 1, 8, 8)
    module, name = net.get_submodule(part.partition(".")[0]), part.partition(".")[2]
    if rule == "prune":
        prune.l1_unstructured(module, name, 0.5)
    else:
        rule(module, name)
    with torch.no_grad():
        net(x)
    layers = describe(net, (1, 8, 8))
    model = QModel(net, layers, schemes.get("mse")(), observe(net, layers, x, torch_rng(0)))
    state = model.float_state()
    again = copy.deepcopy(net)
    again.load_state_dict({k: state[k] for k in again.state_dict()})
    with torch.no_grad():
        assert torch.allclose(again(x), net(x), **CLOSE)
        load_state(taken(net, ["bare.0_read"]), net.state_dict())


def test_masks_of_transposed_convolutions_and_outputs_of_attention_are_kept():
    net = mixed()
    prune.l1_unstructured(net.up, "weight", 0.5)
    prune.l1_unstructured(net.attention.out_proj, "weight", 0.5)
    made = taken(net, ["bare.0_read"])
    for module, given_ in ((made.up, net.up), (made.attention.out_proj, net.attention.out_proj)):
        assert float(mask_of(module).mean()) == 0.5
        assert torch.equal(module.weight * mask_of(module), module.weight)
        assert torch.equal(module.state_dict()["weight"], given_.weight)


def test_hooks_go_with_the_modules_in_whose_place_others_are():
    net, x = mixed(), torch.randn(4, 1, 8, 8)
    net.up.register_forward_hook(lambda m, args, out: out.relu())
    net.rows.register_forward_pre_hook(lambda m, args: (args[0] * 3,))
    net.register_forward_hook(lambda m, args, out: out * 2 + 1)
    layers = describe(net, (1, 8, 8))
    model = QModel(net, layers, schemes.get("mse")(), observe(net, layers, x, torch_rng(0))).eval()
    with torch.no_grad():
        whole = model.fix(Policy.uniform(layers, 32, 32))(x)
        assert torch.allclose(whole, net(x), **CLOSE)


class Asks(nn.Module):
    """A network that branches on the type of its modules, or reads a rewritten weight."""

    def __init__(self, kind):
        super().__init__()
        self.kind, self.head = kind, nn.Linear(8, 4)
        self.parts = nn.Sequential(nn.Conv2d(1, 8, 3), nn.Conv2d(8, 8, 3))
        self.up = nn.ConvTranspose2d(8, 8, 3)

    def forward(self, x):
        for part in self.parts:
            x = part(x)
            if self.kind == "type" and isinstance(part, nn.Conv2d):
                x = x.relu()
        x = self.up(x)
        if self.kind == "layout":
            x = nn.functional.conv_transpose2d(x, self.up.weight, stride=2)
        return self.head(x.mean((2, 3)))


@pytest.mark.parametrize("kind", ["type", "layout"])
def test_a_network_that_computes_otherwise_once_wrapped_is_refused(kind):
    torch.manual_seed(0)
    net, x = Asks(kind).eval(), torch.randn(4, 1, 8, 8)
    layers = describe(net, (1, 8, 8))
    seen = observe(net, layers, x, torch_rng(0))
    with pytest.raises(ValueError, match="computes otherwise with its layers wrapped"):
        QModel(net, layers, schemes.get("mse")(), seen)


class Padded(nn.Module):
    """An encoder that is told which places are padding, and reads the first ``read`` of ten."""

    def __init__(self, read):
        super().__init__()
        self.read, self.stem, self.head = read, nn.Linear(6, 12), nn.Linear(12, 4)
        layer = nn.TransformerEncoderLayer(12, 2, 20, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2)

    def encoded(self, x):
        padding = (torch.arange(10) >= 7).expand(len(x), -1)
        return self.encoder(self.stem(x.flatten(1, 2)), src_key_padding_mask=padding)

    def forward(self, x):
        return self.head(self.encoded(x)[:, : self.read].mean(1))


def test_an_encoder_that_is_told_of_padding_computes_the_same_where_there_is_none():
    torch.manual_seed(0)
    net, x = Padded(7).eval(), torch.randn(4, 1, 10, 6)
    layers = describe(net, (1, 10, 6))
    made = taken(net)
    with torch.no_grad():
        given_ = net.encoded(x)
        assert not given_[:, 7:].any()  # torch made nested tensors, which have nothing there
        assert torch.allclose(made.encoded(x)[:, :7], given_[:, :7], **CLOSE)
        model = QModel(net, layers, schemes.get("mse")(), observe(net, layers, x, torch_rng(0)))
        whole = model.eval().fix(Policy.uniform(layers, 32, 32))(x)
        assert torch.allclose(whole, net(x), **CLOSE)
    assert net.encoder.use_nested_tensor


def test_a_network_that_reads_padded_places_is_refused():
    torch.manual_seed(0)
    net, x = Padded(8).eval(), torch.randn(4, 1, 10, 6)
    layers = describe(net, (1, 10, 6))
    seen = observe(net, layers, x, torch_rng(0))
    with pytest.raises(ValueError, match="computes otherwise with its layers wrapped"):
        QModel(net, layers, schemes.get("mse")(), seen)


def test_layers_inside_layers_keep_their_names():
    class Adapted(nn.Linear):
        def __init__(self):
            super().__init__(16, 4)
            self.down, self.up = nn.Linear(16, 2), nn.Linear(2, 4)

        def forward(self, x):
            x = x.flatten(1)
            return super().forward(x) + self.up(self.down(x))

    net, x = nn.Sequential(nn.Flatten(), Adapted()).eval(), torch.randn(4, 1, 4, 4)
    layers = describe(net, (1, 4, 4))
    model = QModel(net, layers, schemes.get("mse")(), observe(net, layers, x, torch_rng(0)))
    state = model.free(Policy.uniform(layers, 4, 4)).float_state()
    assert state.keys() == net.state_dict().keys()


def test_a_view_of_a_called_layer_s_weight_in_a_function_is_refused():
    class Views(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.head = nn.Linear(16, 16), nn.Linear(16, 4)

        def forward(self, x):
            x = self.one(x.flatten(1)).relu()
            return self.head(nn.functional.linear(x, self.one.weight.t()))

    with pytest.raises(ValueError, match="layer one is called as a module and"):
        describe(Views(), (1, 4, 4))
