import math

import pytest
import timm
import torch
from torch import nn
from torch.func import functional_call, hessian
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from frameworks.core.estimators.derivatives import twice_differentiable
from frameworks.core.estimators.gauss_newton import columns, gauss_newton
from frameworks.core.estimators.gradient_norms import gradient_norms
from frameworks.core.estimators.hessian import (
    ActivationHessian,
    WeightHessian,
)
from frameworks.core.estimators.hutchinson import hutchinson
from frameworks.core.estimators.layouts import FRONT, plain
from frameworks.core.estimators.traces import OutputHessian, layer_traces, residual


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def front(names):
    """The layouts of layers that get the images in front; `again` is called twice."""
    return {name: [FRONT] * (1 + (name == "again")) for name in names}


class Rectified(nn.Module):
    """Piecewise linear: BatchNorm, groups, stride, in-place ReLU, a residual connection."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(4)
        self.depthwise = nn.Conv2d(4, 4, 3, stride=2, padding=1, groups=4)
        self.left = nn.Conv2d(4, 4, 1)
        self.right = nn.Conv2d(4, 4, 1, groups=2)
        self.fc = nn.Linear(4, 4)

    def forward(self, x):
        x = functional.relu(self.bn(self.stem(x)), inplace=True)
        x = functional.relu(self.depthwise(x), inplace=True)
        return self.fc((functional.relu(self.left(x)) + self.right(x)).amax((2, 3)))


class Smooth(nn.Module):
    """Curved: attention over four tokens, GELU, and a layer that is called twice."""

    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(4, 12)
        self.again = nn.Linear(4, 4)
        self.conv = nn.Conv1d(4, 4, 2)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        x = x.flatten(1, 2)
        q, k, v = self.qkv(x).chunk(3, -1)
        x = x + functional.scaled_dot_product_attention(q, k, v)
        x = torch.tanh(self.again(functional.gelu(self.again(x))))
        return self.head(functional.gelu(self.conv(x.transpose(1, 2))).mean(2))


def network(kind):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = kind().double()
        model(torch.randn(16, 1, 4, 4).double())
    return model.eval()


def data(count=6, classes=3):
    g = generator(1)
    x = torch.randn(count, 1, 4, 4, generator=g).double()
    return x, torch.randint(classes, (count,), generator=g)


def dense(model, name, x, y, loss=functional.cross_entropy):
    """The Hessian over one layer's weights."""
    state = {k: v.detach() for k, v in model.state_dict().items()}
    weight = state[f"{name}.weight"]

    def value(vector):
        changed = {**state, f"{name}.weight": vector.view_as(weight)}
        return loss(functional_call(model, changed, (x,)), y)

    with sdpa_kernel(SDPBackend.MATH):
        return hessian(value)(weight.flatten())


RECTIFIED = ("stem", "depthwise", "left", "right", "fc")
SMOOTH = ("qkv", "again", "conv", "head")


def test_traces_of_a_piecewise_linear_network_are_exact():
    model, (x, y) = network(Rectified), data()
    parts_of = [(x[:4], y[:4]), (x[4:], y[4:])]
    with twice_differentiable(model):
        found = layer_traces(model, parts_of, generator(), weights=RECTIFIED, inputs=RECTIFIED)
        probed = hutchinson(
            ActivationHessian(model, front(RECTIFIED), parts_of),
            generator(),
            max_probes=150,
            min_probes=150,
        )
    for name in RECTIFIED:
        matrix = dense(model, name, x, y)
        assert found.weights[name].value == pytest.approx(float(matrix.trace()), rel=1e-9)
        assert found.weights[name].size == len(matrix)
        assert (found.weights[name].error, found.weights[name].converged) == (0, True)
        gap = abs(found.inputs[name].value - probed[name].value)
        assert gap < 4 * probed[name].error
        assert found.inputs[name].size == probed[name].size
        assert found.inputs[name].error == 0


def test_traces_of_a_curved_network_are_those_of_the_dense_hessian():
    model, (x, y) = network(Smooth), data()
    with twice_differentiable(model):
        found = layer_traces(
            model, [(x, y)], generator(), weights=SMOOTH, max_probes=300, min_probes=300
        )
        plainly = hutchinson(
            WeightHessian(model, {n: [n] for n in SMOOTH}, [(x, y)]),
            generator(),
            max_probes=300,
            min_probes=300,
        )
    for name in SMOOTH:
        trace = float(dense(model, name, x, y).trace())
        # `head` is followed by the loss alone, so that nothing is left to probe.
        assert abs(found.weights[name].value - trace) < 4 * found.weights[name].error + 1e-12
        assert found.weights[name].error <= 1.3 * plainly[name].error
    assert found.weights["conv"].error < 0.9 * plainly["conv"].error
    assert found.weights["head"].error == 0
    assert found.weights["head"].value == pytest.approx(trace, rel=1e-9)


def test_activation_traces_of_a_curved_network_agree_with_plain_probes():
    model, (x, y) = network(Smooth), data()
    with twice_differentiable(model):
        found = layer_traces(
            model, [(x, y)], generator(), inputs=SMOOTH, max_probes=150, min_probes=150
        ).inputs
        probed = hutchinson(
            ActivationHessian(model, front(SMOOTH), [(x, y)]),
            generator(1),
            max_probes=150,
            min_probes=150,
        )
    for name in SMOOTH:
        gap = abs(found[name].value - probed[name].value)
        assert gap < 4 * math.hypot(found[name].error, probed[name].error)
        assert found[name].size == probed[name].size


def test_gauss_newton_and_residual_add_up_to_the_hessian():
    model, (x, y) = network(Smooth), data()
    with twice_differentiable(model):
        found = gauss_newton(model, [(x, y)], generator(), weights={"qkv": FRONT, "conv": FRONT})[0]

    def left(logits, labels):
        pull = (logits.detach().softmax(1) - functional.one_hot(labels, 3)) / len(labels)
        return (pull * logits).sum()

    # The pull is constant: take it from the unchanged network.
    pull = model(x).detach().softmax(1) - functional.one_hot(y, 3)
    for name in ("qkv", "conv"):
        rest = dense(model, name, x, y, lambda logits, labels: (pull * logits).sum() / len(y))
        whole = dense(model, name, x, y)
        assert found[name].value == pytest.approx(float((whole - rest).trace()), rel=1e-8)


def test_probes_of_outputs_have_the_mean_of_the_residual():
    model, (x, y) = network(Smooth), data()
    pull = model(x).detach().softmax(1) - functional.one_hot(y, 3)
    rest = dense(model, "conv", x, y, lambda logits, labels: (pull * logits).sum() / len(y))
    with twice_differentiable(model):
        found = hutchinson(
            OutputHessian(model, {"conv": FRONT, "head": FRONT}, [(x, y)], residual),
            generator(),
            max_probes=500,
            min_probes=500,
            joint=True,
        )
    assert abs(found["conv"].value - float(rest.trace())) < 4 * found["conv"].error
    assert found["conv"].error < 0.3 * abs(float(rest.trace()))
    assert found["conv"].size == model.conv.weight.numel()


def test_more_classes_than_passes_are_drawn_without_bias():
    model, (x, y) = network(Rectified), data()
    model.fc = nn.Linear(4, 12).double()
    with twice_differentiable(model):
        exact = gauss_newton(model, [(x, y)], generator(), weights={"left": FRONT}, inputs=["left"])
        values, errors = [], []
        for seed in range(60):
            drawn = gauss_newton(
                model,
                [(x, y)],
                generator(seed),
                weights={"left": FRONT},
                inputs=["left"],
                passes=8,
            )
            values.append([part["left"].value for part in drawn])
            errors.append([part["left"].error for part in drawn])
    for kind in range(2):
        want = exact[kind]["left"]
        assert (want.passes, want.error) == (12, 0)
        got = torch.tensor(values)[:, kind]
        assert abs(float(got.mean()) - want.value) < 4 * float(got.std()) / math.sqrt(60)
        assert float(got.std()) == pytest.approx(
            float(torch.tensor(errors)[:, kind].square().mean().sqrt()), rel=0.35
        )


def test_columns_are_a_root_of_the_hessian_of_cross_entropy():
    p = torch.randn(2, 5, generator=generator()).double().softmax(1)
    found = torch.stack(list(columns(p, 5, torch.ones(2, 0, 5).double())))  # [columns, B, C]
    for b in range(2):
        matrix = torch.diag(p[b]) - torch.outer(p[b], p[b])
        torch.testing.assert_close(found[:, b].T @ found[:, b], matrix)
    likely = found.square().sum(2)[0] - found.square().sum(2)
    assert bool((found[0].abs().argmax(1) == p.argmax(1)).all()), likely


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (nn.Conv2d(4, 6, 3, padding=1), (3, 4, 8, 8)),
        (nn.Conv2d(4, 6, (3, 2), stride=2, padding=(0, 1), dilation=2, groups=2), (3, 4, 9, 9)),
        (nn.Conv2d(4, 4, 3, padding="same", groups=4), (3, 4, 5, 5)),
        (nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular"), (3, 2, 5, 5)),
        (nn.Conv2d(40, 60, 3, padding=1), (3, 40, 2, 2)),  # by Gram matrices
        (nn.Conv1d(4, 6, 3, stride=2, padding=2, groups=2), (3, 4, 9)),
        (nn.Linear(5, 7), (3, 5)),
        (nn.Linear(5, 7), (3, 4, 5)),
    ],
)
def test_gradient_norms_equal_those_of_single_images(module, shape):
    module = module.double()
    x = torch.randn(shape, generator=generator()).double()
    deltas = torch.randn(2, *module(x).shape, generator=generator(1)).double()
    expected = []
    for delta in deltas:
        norms = []
        for i in range(len(x)):
            (g,) = torch.autograd.grad(module(x[i : i + 1]), module.weight, delta[i : i + 1])
            norms.append(float(g.square().sum()))
        expected.append(sum(norms))
    assert gradient_norms(module, x, deltas).tolist() == pytest.approx(expected, rel=1e-9)


def test_only_plain_layers_are_taken_apart():
    class Scaled(nn.Linear):
        def forward(self, x):
            return functional.linear(x, self.weight / self.weight.norm(), self.bias)

    model = nn.Sequential(nn.Linear(3, 3), Scaled(3, 3), nn.Linear(3, 3), nn.Linear(3, 3))
    model[3].weight = model[2].weight
    assert [plain(model, str(i)) for i in range(4)] == [True, False, False, False]


def test_layers_that_are_not_plain_are_still_estimated():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(16, 16), nn.Linear(16, 16)
            self.second.weight = self.first.weight

        def forward(self, x):
            return self.second(torch.tanh(self.first(x.flatten(1))))[:, :3]

    model, (x, y) = network(Tied), data()
    with twice_differentiable(model):
        found = layer_traces(
            model, [(x, y)], generator(), weights=["first"], max_probes=200, min_probes=200
        ).weights["first"]
        again = hutchinson(
            WeightHessian(model, {"first": ["first"]}, [(x, y)]),
            generator(5),
            max_probes=200,
            min_probes=200,
        )["first"]
    assert abs(found.value - again.value) < 4 * math.hypot(found.error, again.error)
    assert found.size == 256


@pytest.mark.parametrize(("name", "size"), [("test_resnet", 32), ("test_vit", 160)])
def test_timm_networks_agree_with_plain_gradients(name, size):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = timm.create_model(name, num_classes=3).double().eval()
        x, y = torch.randn(2, 3, size, size).double(), torch.tensor([0, 2])
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)  # timm starts the last one of a block at zero
    layers = [n for n, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    weights = [model.get_submodule(n).weight for n in layers]
    expected = dict.fromkeys(layers, 0.0)
    for i in range(2):
        logits = model(x[i : i + 1])
        p = logits.detach()[0].softmax(0)
        values, vectors = torch.linalg.eigh(torch.diag(p) - torch.outer(p, p))
        for value, vector in zip(values, vectors.T, strict=True):
            found = torch.autograd.grad(logits[0] @ vector, weights, retain_graph=True)
            for n, g in zip(layers, found, strict=True):
                expected[n] += float(value * g.square().sum()) / 2
    with twice_differentiable(model):
        found = gauss_newton(model, [(x, y)], generator(), weights=dict.fromkeys(layers, FRONT))[0]
        traces = layer_traces(model, [(x, y)], generator(), weights=layers, max_probes=3)
    for n in layers:
        assert found[n].value == pytest.approx(expected[n], rel=1e-6, abs=1e-12)
        if name == "test_resnet":
            assert traces.weights[n].value == found[n].value
    if name == "test_vit":
        assert any(t.error > 0 for t in traces.weights.values())


def test_nothing_to_estimate_and_no_traces_left_behind():
    model, (x, y) = network(Rectified), data()
    with twice_differentiable(model):
        empty = layer_traces(model, [(x, y)], generator())
        layer_traces(model, [(x, y)], generator(), weights=["fc"], inputs=["left"])
    assert (empty.weights, empty.inputs) == ({}, {})
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


class Once(torch.autograd.Function):
    """An operation that can be differentiated once only."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.tanh()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        return gradient * (1 - ctx.saved_tensors[0].tanh() ** 2)


class Odd(nn.Module):
    """A layer that is never called, and one behind a wall to gradients."""

    def __init__(self, act=torch.tanh):
        super().__init__()
        self.act, self.walled = act, False
        self.first, self.unused, self.head = nn.Linear(16, 4), nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x):
        x = self.act(self.first(x.flatten(1)))
        return self.head(x.detach() if self.walled else x)


@pytest.mark.parametrize("walled", [False, True])
@pytest.mark.parametrize("weights", [["unused"], ["first"], ["unused", "first", "head"]])
def test_layers_that_the_loss_does_not_depend_on_have_trace_0(weights, walled):
    model, (x, y) = network(Odd), data()
    model.walled = walled
    with twice_differentiable(model):
        found = layer_traces(model, [(x, y)], generator(), weights=weights, max_probes=3).weights
    for name in weights:
        flat = name == "unused" or (walled and name == "first")
        assert (found[name].value == 0) == flat
        assert found[name].size == model.get_submodule(name).weight.numel()
        if flat:
            assert (found[name].error, found[name].converged) == (0, True)


def test_inputs_of_a_layer_that_is_never_called_are_refused():
    model, (x, y) = network(Odd), data()
    with twice_differentiable(model), pytest.raises(ValueError, match="unused is never called"):
        layer_traces(model, [(x, y)], generator(), inputs=["head", "unused"])


def test_an_operation_without_a_second_derivative_is_named():
    model, (x, y) = network(lambda: Odd(Once.apply)), data()
    with twice_differentiable(model), pytest.raises(ValueError, match="once_differentiable"):
        layer_traces(model, [(x, y)], generator(), weights=["first"])
    # Where nothing has to be differentiated twice, the operation does no harm.
    with twice_differentiable(model):
        found = layer_traces(model, [(x, y)], generator(), weights=["head"]).weights["head"]
    twin = network(Odd)  # the same but for the operation
    assert found.value == pytest.approx(float(dense(twin, "head", x, y).trace()), rel=1e-9)


def test_labels_may_be_shares():
    model, (x, _) = network(Odd), data()
    shares = torch.rand(len(x), 3, generator=generator(), dtype=x.dtype).softmax(1)
    with twice_differentiable(model):
        found = layer_traces(model, [(x, shares)], generator(), weights=["head"]).weights["head"]
    assert found.value == pytest.approx(float(dense(model, "head", x, shares).trace()), rel=1e-6)


def test_of_the_own_shares_of_a_network_no_residual_is_probed():
    """The Hessian is the Gauss-Newton part alone, which is exact; rounding is none of it."""
    model, (x, _) = network(Odd), data()
    with torch.no_grad():
        shares = model(x).softmax(1) + 1e-9
    with twice_differentiable(model):
        found = layer_traces(model, [(x, shares)], generator(), weights=["first"]).weights["first"]
    assert found.error == 0
    assert found.value == pytest.approx(float(dense(model, "first", x, shares).trace()), rel=1e-5)


@pytest.mark.parametrize("labels", [torch.tensor([0, 3]), torch.tensor([0, -1]), torch.rand(2, 3)])
def test_labels_that_are_no_classes_are_refused(labels):
    model, (x, _) = network(Odd), data()
    with twice_differentiable(model), pytest.raises(ValueError, match="whole numbers from 0 to 2"):
        layer_traces(model, [(x[:2], labels)], generator(), weights=["first"])
