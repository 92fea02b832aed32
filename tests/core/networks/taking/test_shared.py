"""One tensor in two layers: one choice, counted once, with one range."""

import pytest
import torch
from torch import nn

from frameworks import (
    BudgetSpec,
    Data,
    Policy,
    Problem,
    Recipe,
    Space,
    TensorSplit,
    account,
    describe,
    schemes,
    supported_space,
    targets,
)


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(16, 12)
        self.one, self.two, self.head = nn.Linear(12, 12), nn.Linear(12, 12), nn.Linear(12, 4)
        self.two.weight = self.one.weight

    def forward(self, x):
        return self.head(self.two(self.one(self.stem(x.flatten(1)).relu()).relu()).relu())


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Tied().eval()


def test_the_second_layer_names_the_first_and_adds_nothing_to_the_size(net):
    layers = describe(net, (1, 4, 4))
    assert [layer.shared for layer in layers] == ["", "", "one", ""]
    assert [layer.stored for layer in layers] == [192, 144, 0, 48]
    uniform = Policy.uniform(layers, 8, 4)
    assert targets.get("size")().cost(layers, uniform)["size"] == 192 + 144 + 48
    assert targets.get("bops")().cost(layers, uniform)["bops"] == (192 + 144 + 144 + 48) * 32
    assert uniform.replace("one", weight=2).replace("two", weight=2).mean_weight_bits(
        layers
    ) == pytest.approx((8 * 240 + 2 * 144) / 384)
    assert account(net, layers, (1, 4, 4)).quantized == 384


def test_their_bits_are_one_choice_pins_and_ties_included(net):
    layers = describe(net, (1, 4, 4))
    space = Space.build(layers, (2, 8), (2, 8))
    assert ("one", "two") in space.groups
    assert len(space.choices) == 6
    with pytest.raises(ValueError, match="one and two have one weight"):
        space.validate(space.lowest().replace("one", weight=8))
    with pytest.raises(ValueError, match="one and two have one weight"):
        space.validate(space.lowest().replace("one", weight=0))
    pinned = Space.build(layers, (2, 4), (2, 4), pinned={"two": (8, 8)})
    assert pinned.weight_bits["one"] == (8,)
    joined = Space.build(layers, (2, 4), (2, 4), groups=[("stem", "two")])
    assert joined.groups == (("stem", "one", "two"),)
    made = supported_space(targets.get("size")(), layers, (2, 4), (4,), pinned={"one": (8, 8)})
    assert made.weight_bits["two"] == (8,)
    with pytest.raises(ValueError, match="pinned at different bits"):
        Space.build(layers, (2,), (2,), pinned={"one": (8, 8), "two": (4, 4)})


def problem_of(net, layers, x):
    split = TensorSplit(x, torch.arange(len(x)) % 4)
    space, target = Space.build(layers, (3, 8), (4, 8)), targets.get("size")()
    return Problem(
        network=net, space=space, target=target, budget=BudgetSpec(like=8).resolve(target, space),
        scheme=schemes.get("mse")(), data=Data(split, split, x), retrains=True,
    )  # fmt: skip


def test_fine_tuning_keeps_one_weight_with_one_range(net):
    layers = describe(net, (1, 4, 4))
    problem = problem_of(net, layers, torch.rand(64, 1, 4, 4))
    recipe = Recipe(epochs=3, batch=16, lr=0.1)
    tuned = problem.fine_tune(Policy.uniform(layers, 3, 4), recipe)
    one, two = tuned.qlayer("one"), tuned.qlayer("two")
    assert torch.equal(one.weight, two.weight)
    assert not torch.equal(one.inner.weight, net.one.weight)
    ranges = tuned.range_parameters()
    assert len({id(p) for p in ranges}) == len(ranges)


class Across(nn.Module):
    """A linear layer with the weight of a module that is written out."""

    def __init__(self, part, memory):
        super().__init__()
        torch.manual_seed(0)
        self.attends = part != "recurrent"
        self.stem, self.lin, self.head = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 4)
        if not self.attends:
            self.one = nn.RNN(6, 6, batch_first=True)
            weight = self.one.weight_ih_l0
        else:
            self.one = nn.MultiheadAttention(6, 2, batch_first=True)
            weight = self.one.out_proj.weight
        if part == "a third":
            weight = nn.Parameter(self.one.in_proj_weight.detach()[6:12])
        self.lin.weight = nn.Parameter(weight.detach()) if memory else weight

    def forward(self, x):
        x = self.stem(x.flatten(1, 2)).relu()
        x = (self.one(x, x, x) if self.attends else self.one(x))[0]
        return self.head(self.lin(x).relu().mean(1))


@pytest.mark.parametrize(
    ("part", "memory", "owner", "size"),
    [
        ("recurrent", False, "one.ih_l0", 36 + 72 + 24),
        ("recurrent", True, "one.ih_l0", 36 + 72 + 24),
        ("attention", False, "one.out_proj", 36 + 144 + 24),
        ("attention", True, "one.out_proj", 36 + 144 + 24),
        ("a third", True, "one.k_proj", 36 + 144 + 24),
    ],
)
def test_a_weight_inside_a_module_that_is_written_out_stays_tied(part, memory, owner, size):
    net, x = Across(part, memory).eval(), torch.randn(32, 1, 5, 6)
    layers = describe(net, (1, 5, 6))
    assert {layer.name: layer.shared for layer in layers if layer.shared} == {"lin": owner}
    uniform = Policy.uniform(layers, 8, 8)
    assert targets.get("size")().cost(layers, uniform)["size"] == size
    assert account(net, layers, (1, 5, 6)).quantized == size
    tuned = problem_of(net, layers, x).fine_tune(uniform, Recipe(epochs=2, batch=16, lr=0.1))
    assert tuned.qlayer("lin").inner.weight is tuned.qlayer(owner).inner.weight
    assert not torch.equal(tuned.qlayer("lin").inner.weight, net.lin.weight)
    again = Across(part, memory).eval()
    state = tuned.float_state()
    again.load_state_dict({key: state[key] for key in again.state_dict()})
    with torch.no_grad():
        whole = tuned.fix(Policy.uniform(layers, 32, 32)).eval()(x)
        assert torch.allclose(again(x), whole, atol=1e-5)


class Stages(nn.Module):
    """Modules one after the other, each on ``[N, 6, 5]``, and whatever is done to their weights."""

    def __init__(self, *stages, tie):
        super().__init__()
        torch.manual_seed(0)
        self.stages, self.head = nn.ModuleList(stages), nn.Linear(6, 4)
        self.kinds = [type(stage) for stage in stages]  # before any of them is written out
        tie(*stages)

    def forward(self, x):
        x = x.flatten(1, 2)
        for kind, stage in zip(self.kinds, self.stages, strict=True):
            if kind is nn.Linear:
                x = stage(x.transpose(1, 2))[..., :6].transpose(1, 2)
            elif kind is nn.MultiheadAttention:
                x = stage(*(x.transpose(1, 2),) * 3)[0].transpose(1, 2)
            else:
                x = stage(x)
        return self.head(x.mean(2))


def same(one, two, attribute="weight"):
    two.weight = getattr(one, attribute)


def view(change):
    def tie(one, two):
        two.weight = nn.Parameter(change(one.weight.detach()))

    return tie


ROWS = torch.arange(60.0).view(10, 6) / 60
SHAPES = {
    "a transposed convolution": lambda: Stages(
        nn.Conv1d(6, 6, 3, padding=1), nn.ConvTranspose1d(6, 6, 3, padding=1), tie=same
    ),
    "transposed convolutions of other groups": lambda: Stages(
        nn.ConvTranspose1d(6, 6, 1, groups=1), nn.ConvTranspose1d(6, 36, 1, groups=6), tie=same
    ),
    "a convolution of one place": lambda: Stages(
        nn.Linear(6, 6), nn.Conv1d(6, 6, 1), tie=view(lambda w: w[..., None])
    ),
    "rows and columns": lambda: Stages(
        nn.Linear(6, 6), nn.Linear(6, 6), tie=view(lambda w: w.t())
    ),
    "rows and columns beside a module that is written out": lambda: Stages(
        nn.Linear(6, 6), nn.Linear(6, 6), nn.MultiheadAttention(6, 2, batch_first=True),
        tie=lambda one, two, _: view(lambda w: w.t())(one, two),
    ),
    "all of attention's projections": lambda: Stages(
        nn.MultiheadAttention(6, 2, batch_first=True), nn.Linear(6, 18),
        tie=lambda one, two: same(one, two, "in_proj_weight"),
    ),
    "some rows": lambda: Stages(
        nn.Linear(6, 6), nn.Linear(6, 6),
        tie=lambda one, two: (
            view(lambda _: ROWS[:6])(one, one), view(lambda _: ROWS[4:])(one, two)
        ),
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", SHAPES)
def test_one_tensor_in_two_shapes_or_orders_is_refused(kind):
    net = SHAPES[kind]()
    with pytest.raises(ValueError, match=r"layers stages.\d and stages.\d store their weights in"):
        describe(net, (1, 6, 5))


def test_weights_side_by_side_in_one_memory_are_two():
    halves = torch.randn(6, 12)
    net = Stages(
        nn.Linear(6, 6), nn.Linear(6, 6), nn.MultiheadAttention(6, 2, batch_first=True),
        tie=lambda one, two, _: (
            view(lambda _: halves[:, :6])(one, one), view(lambda _: halves[:, 6:])(one, two)
        ),
    ).eval()  # fmt: skip
    x = torch.randn(16, 1, 6, 5)
    layers = describe(net, (1, 6, 5))
    assert not any(layer.shared for layer in layers)
    uniform = Policy.uniform(layers, 8, 8)
    tuned = problem_of(net, layers, x).fine_tune(uniform, Recipe(epochs=1, batch=8, lr=0.1))
    assert tuned.qlayer("stages.0").inner.weight.shape == (6, 6)


def test_one_tensor_in_two_shapes_is_refused():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Linear(8, 4))
    net[2].weight = nn.Parameter(net[1].weight.detach()[:4, :8])
    with pytest.raises(ValueError, match="layers 1 and 2 store their weights in one tensor"):
        describe(net, (1, 4, 4))


def test_what_stays_float_and_what_is_never_read_are_told_apart():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.never = nn.Linear(16, 8), nn.Linear(8, 3)
            self.by_data, self.product = nn.Linear(8, 8), nn.Parameter(torch.randn(8, 4))
            self.table = nn.Embedding(2, 8)

        def forward(self, x):
            x = self.stem(x.flatten(1)) + self.table(torch.zeros(len(x), dtype=torch.long))
            x = nn.functional.linear(x, self.by_data.weight.data).relu()
            return x @ self.product

    net = Net()
    layers = describe(net, (1, 4, 4))
    found = account(net, layers, (1, 4, 4))
    assert [layer.name for layer in layers] == ["stem"]
    assert found.quantized == 128
    assert found.left == {"product": 32, "by_data.weight": 64, "table.weight": 16}
    assert found.unused == {"never.weight": 24}
    assert found.share == pytest.approx(112 / 240)
    assert found.text().startswith("46.67% of the weights stay in float and cost nothing: by_data")
