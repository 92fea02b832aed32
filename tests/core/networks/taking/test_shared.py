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


def test_fine_tuning_keeps_one_weight_with_one_range(net):
    layers = describe(net, (1, 4, 4))
    x, y = torch.rand(64, 1, 4, 4), torch.randint(4, (64,))
    space, target = Space.build(layers, (3,), (4,)), targets.get("size")()
    problem = Problem(
        network=net, space=space, target=target, budget=BudgetSpec(like=8).resolve(target, space),
        scheme=schemes.get("mse")(), data=Data(TensorSplit(x, y), TensorSplit(x, y), x),
        retrains=True,
    )  # fmt: skip
    recipe = Recipe(epochs=3, batch=16, lr=0.1)
    tuned = problem.fine_tune(Policy.uniform(layers, 3, 4), recipe)
    one, two = tuned.qlayer("one"), tuned.qlayer("two")
    assert torch.equal(one.weight, two.weight)
    assert not torch.equal(one.inner.weight, net.one.weight)
    ranges = tuned.range_parameters()
    assert len({id(p) for p in ranges}) == len(ranges)


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
