import math

import pytest
import timm
import torch
from torch import nn
from torch.func import functional_call, grad, hessian, jvp
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from frameworks.core.estimators.derivatives import twice_differentiable
from frameworks.core.estimators.hessian import (
    ActivationHessian,
    WeightHessian,
)
from frameworks.core.estimators.hutchinson import hutchinson
from frameworks.core.estimators.layouts import FRONT
from frameworks.core.estimators.signs import rademacher
from frameworks.heuristic.hawq.power_iteration import power_iteration


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def front(names):
    """Layers that are called once with the images in front."""
    return {name: [FRONT] for name in names}


class TinyConv(nn.Module):
    """Two branches that read the same tensor, BatchNorm and in-place ReLU."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 3, 3, bias=False)
        self.bn = nn.BatchNorm2d(3)
        self.relu = nn.ReLU(inplace=True)
        self.left = nn.Conv2d(3, 3, 1, groups=3)
        self.right = nn.Conv2d(3, 3, 1)
        self.fc = nn.Linear(3, 4)

    def forward(self, x):
        x = self.relu(self.bn(self.conv1(x)))
        return self.fc((self.left(x) + torch.tanh(self.right(x))).mean((2, 3)))


class TinyAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(4, 12)
        self.norm = nn.LayerNorm(4)
        self.mlp = nn.Linear(4, 4)
        self.head = nn.Linear(4, 3)

    def forward(self, x):  # [B, 1, 4, 4]: four tokens of four features
        x = x.flatten(1, 2)
        q, k, v = self.qkv(x).chunk(3, -1)
        x = x + functional.scaled_dot_product_attention(q, k, v)
        x = x + functional.gelu(self.mlp(self.norm(x)))
        return self.head(x.mean(1))


def network(kind, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = (TinyConv if kind == "conv" else TinyAttention)().double()
        model(torch.randn(16, 1, 4, 4).double())  # moves BatchNorm off its initial statistics
    return model


def data(count=6, classes=3, seed=1):
    g = generator(seed)
    x = torch.randn(count, 1, 4, 4, generator=g).double()
    return x, torch.randint(classes, (count,), generator=g)


LAYERS = {"conv": ("conv1", "left", "right", "fc"), "attention": ("qkv", "mlp", "head")}


def dense(model, names, x, y):
    """The Hessian over all weights of the layers, and the slice of each."""
    shapes = {n: model.get_submodule(n).weight.shape for n in names}
    state = {k: v.detach() for k, v in model.state_dict().items()}
    flat = torch.cat([state[f"{n}.weight"].flatten() for n in names])
    sizes = [math.prod(shape) for shape in shapes.values()]

    def loss(vector):
        parts = zip(names, vector.split(sizes), strict=True)
        weights = {f"{n}.weight": part.view(shapes[n]) for n, part in parts}
        return functional.cross_entropy(functional_call(model, {**state, **weights}, (x,)), y)

    slices, start = {}, 0
    for name, size in zip(names, sizes, strict=True):
        slices[name] = slice(start, start + size)
        start += size
    model.eval()
    with sdpa_kernel(SDPBackend.MATH):
        return hessian(loss)(flat), slices


@pytest.fixture(params=["conv", "attention"])
def case(request):
    model, names, (x, y) = network(request.param), LAYERS[request.param], data()
    matrix, slices = dense(model, names, x, y)
    with twice_differentiable(model):
        yield model, names, matrix, slices, [(x, y)]


def test_products_equal_the_dense_hessian(case):
    model, names, matrix, slices, batches = case
    (graph,) = WeightHessian(model, {n: [n] for n in names}, batches).graphs()
    g = generator()
    z = {n: [torch.randn(v.shape, generator=g).double() for v in graph.variables[n]] for n in names}
    whole = matrix @ torch.cat([z[n][0].flatten() for n in names])
    products = graph.product(z)
    for name in names:
        torch.testing.assert_close(products[name][0].flatten(), whole[slices[name]])
        block = matrix[slices[name], slices[name]] @ z[name][0].flatten()
        alone = graph.product({name: z[name]})
        assert list(alone) == [name]
        torch.testing.assert_close(alone[name][0].flatten(), block)


def test_eigenvalues_of_layers_equal_dense_diagonal_blocks(case):
    model, names, matrix, slices, batches = case
    found = power_iteration(
        WeightHessian(model, {n: [n] for n in names}, batches),
        names,
        generator(),
        max_iterations=500,
        tolerance=1e-9,
    )
    for name in names:
        values = torch.linalg.eigvalsh(matrix[slices[name], slices[name]])
        top = float(values[values.abs().argmax()])
        assert found[name].value == pytest.approx(top, rel=1e-4)
        assert found[name].converged


def test_eigenvalue_of_a_block_of_layers(case):
    model, names, matrix, _, batches = case
    found = power_iteration(
        WeightHessian(model, {"all": names}, batches),
        ["all"],
        generator(),
        max_iterations=500,
        tolerance=1e-9,
    )
    values = torch.linalg.eigvalsh(matrix)
    assert found["all"].value == pytest.approx(float(values[values.abs().argmax()]), rel=1e-4)


@pytest.mark.parametrize("joint", [False, True])
def test_traces_and_their_variance_are_those_of_the_dense_hessian(case, joint):
    # Var(z_i^T H_ii z_i) = 2 sum_{k != l in i} H_kl^2; a joint probe adds the cross terms.
    model, names, matrix, slices, batches = case
    found = hutchinson(
        WeightHessian(model, {n: [n] for n in names}, batches),
        generator(),
        max_probes=600,
        min_probes=600,
        joint=joint,
    )
    for name in names:
        block = matrix[slices[name], slices[name]]
        inside = block.square()
        variance = 2 * (inside.sum() - inside.diagonal().sum())
        if joint:
            variance += matrix[slices[name]].square().sum() - inside.sum()
        assert found[name].error == pytest.approx(math.sqrt(float(variance) / 600), rel=0.2)
        assert abs(found[name].value - float(block.trace())) < 4 * found[name].error
        assert found[name].size == len(block)
        assert found[name].average == found[name].value / len(block)


@pytest.mark.parametrize("kind", ["conv", "attention"])
def test_batches_add_up_to_one_batch(kind):
    model, names, (x, y) = network(kind), LAYERS[kind], data()
    parts = [(x[:4], y[:4]), (x[4:], y[4:])]
    with twice_differentiable(model):
        found = [
            power_iteration(WeightHessian(model, {n: [n] for n in names}, b), names, generator())
            for b in ([(x, y)], parts)
        ]
        traces = hutchinson(
            WeightHessian(model, {n: [n] for n in names}, parts), generator(), max_probes=150
        )
    matrix, slices = dense(model, names, x, y)
    for name in names:
        assert found[0][name].value == pytest.approx(found[1][name].value, rel=1e-9)
        trace = float(matrix[slices[name], slices[name]].trace())
        assert abs(traces[name].value - trace) < 4 * traces[name].error


def activation_hessians(model, name, x, y):
    """The dense Hessian of one image's loss over one layer's own input, for each image."""
    model.eval()
    seen = []
    layer = model.get_submodule(name)
    handle = layer.register_forward_pre_hook(lambda m, args: seen.append(args[0].detach().clone()))
    model(x)
    handle.remove()
    out = []
    for k in range(len(x)):

        def loss(a, k=k):
            hook = layer.register_forward_pre_hook(lambda m, args: (a,))
            try:
                return functional.cross_entropy(model(x[k : k + 1]), y[k : k + 1])
            finally:
                hook.remove()

        size = seen[0][k].numel()
        with sdpa_kernel(SDPBackend.MATH):
            out.append(hessian(loss)(seen[0][k : k + 1]).view(size, size))
    return out


@pytest.mark.parametrize("kind", ["conv", "attention"])
def test_activation_traces_are_means_over_images(kind):
    model, names, (x, y) = network(kind), LAYERS[kind], data(4)
    model.requires_grad_(False)
    expected = {n: activation_hessians(model, n, x, y) for n in names}
    with twice_differentiable(model):
        found = hutchinson(
            ActivationHessian(model, front(names), [(x[:3], y[:3]), (x[3:], y[3:])]),
            generator(),
            max_probes=150,
            min_probes=150,
        )
    for name in names:
        mean = sum(float(h.trace()) for h in expected[name]) / len(x)
        assert abs(found[name].value - mean) < 4 * found[name].error
        assert found[name].error < 0.6 * abs(mean)
        assert found[name].size == len(expected[name][0])


def test_activation_products_are_exact_per_image():
    # `left` and `right` read the same tensor; each is perturbed alone, images do not mix.
    model, (x, y) = network("conv"), data(3)
    expected = activation_hessians(model, "right", x, y)
    with twice_differentiable(model):
        (graph,) = ActivationHessian(model, front(["conv1", "left", "right"]), [(x, y)]).graphs()
        z = rademacher(graph.variables["right"][0], generator())
        product = graph.product({"right": [z]})["right"][0]
    for k, matrix in enumerate(expected):
        torch.testing.assert_close(product[k].flatten(), matrix @ z[k].flatten() / len(x))


class Quadratic(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.layer = nn.Linear(size, 1, bias=False)
        nn.init.ones_(self.layer.weight)

    def forward(self, x):
        return self.layer(x)


def quadratic(matrix):
    """The Hessian of L = w^T H w / 2."""
    model = Quadratic(len(matrix)).double()
    batch = (torch.zeros(1, len(matrix)).double(), torch.zeros(1).long())

    def loss(model, x, y):
        w = model.layer.weight[0]
        return 0.5 * w @ matrix @ w

    return model, [batch], loss


def symmetric(size=6, seed=0):
    a = torch.randn(size, size, generator=generator(seed)).double()
    return a + a.T


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_quadratic_model_gives_the_eigenvalue_of_largest_magnitude_with_its_sign(sign):
    q = torch.linalg.qr(symmetric()).Q
    matrix = sign * q @ torch.diag(torch.tensor([5.0, -3, 2, 1, 0, 0.5]).double()) @ q.T
    model, batches, loss = quadratic(matrix)
    with twice_differentiable(model):
        operator = WeightHessian(model, {"layer": ["layer"]}, batches, loss)
        found = power_iteration(operator, ["layer"], generator(), tolerance=1e-6)["layer"]
    assert found.value == pytest.approx(sign * 5, rel=1e-3)
    assert found.converged
    assert found.iterations <= 100


def test_diagonal_hessian_is_exact_with_one_probe():
    values = torch.tensor([3.0, -7, 0.5, 0, 11, 2]).double()
    model, batches, loss = quadratic(torch.diag(values))
    with twice_differentiable(model):
        operator = WeightHessian(model, {"layer": ["layer"]}, batches, loss)
        found = hutchinson(operator, generator(), max_probes=1, min_probes=1)["layer"]
    assert found.value == float(values.sum())
    assert found.probes == 1


def test_negative_traces_keep_their_sign():
    model, batches, loss = quadratic(-torch.eye(4).double())
    with twice_differentiable(model):
        operator = WeightHessian(model, {"layer": ["layer"]}, batches, loss)
        assert hutchinson(operator, generator())["layer"].value == -4


def test_dense_quadratic_within_three_sigma():
    matrix = symmetric(8)
    model, batches, loss = quadratic(matrix)
    with twice_differentiable(model):
        operator = WeightHessian(model, {"layer": ["layer"]}, batches, loss)
        found = hutchinson(operator, generator(), max_probes=100, min_probes=100)["layer"]
    off_diagonal = matrix.square().sum() - matrix.diagonal().square().sum()
    sigma = math.sqrt(2 * float(off_diagonal) / 100)
    assert abs(found.value - float(matrix.trace())) < 3 * sigma


def test_a_flat_loss_has_no_curvature():
    model, batches, _ = quadratic(torch.eye(3).double())

    def loss(model, x, y):
        return model.layer.weight.sum()

    with twice_differentiable(model):
        operator = WeightHessian(model, {"layer": ["layer"]}, batches, loss)
        assert hutchinson(operator, generator())["layer"].value == 0
        found = power_iteration(operator, ["layer"], generator())["layer"]
    assert (found.value, found.iterations, found.converged) == (0, 1, True)


def test_stopping_rule_waits_for_the_minimum_and_for_negative_means():
    # All draws are equal, so the running mean is settled at once; a rule that divides by the
    # signed mean would also stop for the noisy negative case below.
    model, batches, loss = quadratic(torch.eye(4).double())
    with twice_differentiable(model):
        operator = WeightHessian(model, {"layer": ["layer"]}, batches, loss)
        settled = hutchinson(operator, generator(), max_probes=50, min_probes=7)["layer"]
        model, batches, loss = quadratic(-torch.eye(6).double() + symmetric())
        operator = WeightHessian(model, {"layer": ["layer"]}, batches, loss)
        noisy = hutchinson(operator, generator(), max_probes=21, tolerance=1e-6)["layer"]
    assert (settled.probes, settled.converged) == (7, True)
    assert (noisy.probes, noisy.converged) == (21, False)
    assert noisy.error > 0


@pytest.mark.parametrize(("name", "size"), [("test_resnet", 64), ("test_vit", 160)])
def test_timm_products_equal_forward_over_reverse(name, size):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = timm.create_model(name, num_classes=5)
        x, y = torch.randn(2, 3, size, size), torch.tensor([0, 3])
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)  # timm starts the last one of a block at zero
    layers = [n for n, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    with twice_differentiable(model):
        (graph,) = WeightHessian(model, {n: [n] for n in layers}, [(x, y)]).graphs()
        g = generator()
        z = {n: [rademacher(v, g) for v in graph.variables[n]] for n in layers}
        found = graph.product(z)
        weights = {f"{n}.weight": graph.variables[n][0].detach() for n in layers}
        tangents = {f"{n}.weight": z[n][0] for n in layers}
        gradient = grad(lambda w: functional.cross_entropy(functional_call(model, w, (x,)), y))
        _, expected = jvp(gradient, (weights,), (tangents,))
    for n in layers:
        want = expected[f"{n}.weight"]
        assert float((found[n][0] - want).norm() / want.norm()) < 1e-3


def test_the_model_is_as_before():
    model = network("conv").train()
    model.bn.weight.requires_grad_(False)
    state = {k: v.clone() for k, v in model.state_dict().items()}
    x, y = data()
    with twice_differentiable(model):
        assert not model.relu.inplace
        assert not model.training
        hutchinson(WeightHessian(model, {"fc": ["fc"]}, [(x, y)]), generator(), max_probes=2)
    assert model.relu.inplace
    assert model.training
    assert model.bn.training
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    assert trained == {n for n, _ in model.named_parameters()} - {"bn.weight"}
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())


def test_half_precision_and_no_images_are_refused():
    with (
        pytest.raises(ValueError, match="float32"),
        twice_differentiable(network("conv").half()),
    ):
        pass
    with pytest.raises(ValueError, match="at least one batch"):
        WeightHessian(network("conv"), {"fc": ["fc"]}, [])


def test_same_generator_same_estimates():
    model, (x, y) = network("conv"), data()

    def run(seed):
        with twice_differentiable(model):
            operator = WeightHessian(model, {n: [n] for n in LAYERS["conv"]}, [(x, y)])
            return hutchinson(operator, generator(seed)), power_iteration(
                operator, ["fc"], generator(seed)
            )

    assert run(0) == run(0)
    assert run(0) != run(1)


class TinyGate(nn.Module):
    """A squeeze-and-excitation gate with a hard sigmoid, as in MobileNetV3."""

    def __init__(self, gate):
        super().__init__()
        self.conv, self.fc, self.head = nn.Conv2d(1, 3, 3), nn.Linear(3, 3), nn.Linear(3, 4)
        self.gate = gate

    def forward(self, x):
        x = torch.tanh(self.conv(x))
        x = x * self.gate(4 * self.fc(x.mean((2, 3))))[:, :, None, None]
        return self.head(x.mean((2, 3)))


@pytest.mark.parametrize("inplace", [False, True])
def test_hard_sigmoids_are_twice_differentiable(inplace):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = TinyGate(nn.Hardsigmoid(inplace)).double()
    x, y = torch.randn(8, 1, 5, 5, generator=generator()).double(), torch.arange(8) % 4
    other = TinyGate(lambda z: (z / 6 + 0.5).clamp(0, 1)).double()
    other.load_state_dict(model.state_dict())
    products = []
    for net in (model, other):
        with twice_differentiable(net):
            found = WeightHessian(net, {n: [n] for n in ("conv", "fc")}, [(x, y)])
            graph = next(iter(found.graphs()))
            vectors = {n: [torch.ones_like(t) for t in v] for n, v in graph.variables.items()}
            products.append(graph.product(vectors))
    for name, parts in products[0].items():
        for a, b in zip(parts, products[1][name], strict=True):
            assert a.abs().max() > 1e-6
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize("images", [1, 3])
@pytest.mark.parametrize("affine", [False, True])
def test_batchnorm_is_a_line_whatever_the_strides_of_the_gradient(images, affine):
    # torch 2.15's own derivative is wrong for one image whose gradient has its channels last.
    norm = nn.BatchNorm2d(8, affine=affine).double().eval()
    g = generator()
    norm.running_mean.copy_(torch.randn(8, generator=g))
    norm.running_var.copy_(torch.rand(8, generator=g) + 0.5)
    if affine:
        norm.weight.data.copy_(torch.randn(8, generator=g))
        norm.bias.data.copy_(torch.randn(8, generator=g))
    x = torch.randn(images, 8, 4, 4, generator=g).double().requires_grad_()
    delta = torch.randn(images, 16, 8, generator=g).double().transpose(1, 2).view(images, 8, 4, 4)
    with twice_differentiable(nn.Sequential(norm)):
        y = norm(x)
        (found,) = torch.autograd.grad(y, x, delta)
    torch.testing.assert_close(y, norm(x))
    scale = (norm.weight if affine else 1) / (norm.running_var + norm.eps).sqrt()
    torch.testing.assert_close(found, delta * scale.view(1, 8, 1, 1))
