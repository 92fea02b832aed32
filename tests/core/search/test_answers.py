"""Weights that a search returns, on networks that are taken: the names they may and must have."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune, weight_norm

from frameworks import (
    BudgetSpec,
    Data,
    Policy,
    Problem,
    Recipe,
    Solution,
    Space,
    TensorSplit,
    WrongAnswer,
    describe,
    schemes,
    targets,
)
from frameworks.core.search.answers import searched


class Net(nn.Module):
    """One layer, or module with layers, between two plain ones."""

    def __init__(self, part):
        super().__init__()
        self.stem, self.part, self.head = nn.Linear(6, 6), part, nn.Linear(6, 4)
        self.kind = type(part)  # what is written out is of another one

    def forward(self, x):
        x = self.stem(x.flatten(1, 2)).relu()
        if self.kind is nn.MultiheadAttention:
            x = self.part(x, x, x)[0]
        else:
            x = self.part(x)[0] if self.kind is nn.LSTM else self.part(x)
        return self.head(x.mean(1))


def silenced():
    """A layer under weight_norm of which one row is 0, so that its direction is lost."""
    layer = nn.Linear(6, 6)
    layer.weight.data[0] = 0
    layer = weight_norm(layer)
    layer.weight_v.data[0] = 1
    return layer


PARTS = {
    "attention": lambda: nn.MultiheadAttention(6, 2, batch_first=True),
    "recurrent": lambda: nn.LSTM(6, 6, batch_first=True),
    "pruned": lambda: prune.random_unstructured(nn.Linear(6, 6), "weight", 0.5),
    "pruned_attention": lambda: prune.random_unstructured(
        nn.MultiheadAttention(6, 2, batch_first=True), "in_proj_weight", 0.5
    ),
    "spectral_norm": lambda: parametrizations.spectral_norm(nn.Linear(6, 6)),
    "weight_norm": silenced,
    "plain": lambda: nn.Linear(6, 6),
}


class Method:
    """Returns weights; the rest of a framework is not asked for."""

    name = "method"

    def __init__(self, change):
        self.change = change

    def search(self, problem):
        policy = Policy.uniform(problem.layers, 4, 4)
        state = problem.fine_tune(policy, Recipe(epochs=1, batch=16, lr=0.1)).float_state()
        self.change(state)
        return Solution(policy, state)


def problem_of(part):
    torch.manual_seed(0)
    net, x = Net(PARTS[part]()).eval(), torch.randn(32, 1, 5, 6)
    layers, target = describe(net, (1, 5, 6)), targets.get("size")()
    space, data = Space.build(layers, (4,), (4,)), TensorSplit(x, torch.arange(32) % 4)
    budget = BudgetSpec(like=8).resolve(target, space)
    return net, Problem(
        network=net, space=space, target=target, budget=budget, scheme=schemes.get("mse")(),
        data=Data(data, data, x), retrains=True,
    )  # fmt: skip


@pytest.mark.parametrize("part", PARTS)
def test_trained_weights_may_have_the_names_of_the_network_as_given(part):
    net, problem = problem_of(part)
    found = searched(Method(lambda state: None), problem)
    assert problem.network.state_dict().keys() <= found.weights.keys()
    if part not in ("spectral_norm", "weight_norm"):  # of which not all values can be expressed
        assert net.state_dict().keys() <= found.weights.keys()
    problem.fine_tune(found.policy, Recipe(epochs=1, batch=16), weights=found.weights)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.update(other=torch.ones(1)), r"differ in \['other'\]"),
        (lambda s: s.pop("stem.weight"), r"differ in \['stem.weight'\]"),
        (lambda s: s.update({"head.bias": torch.ones(5)}), r"'head.bias'\] is \[5\]: .* \[4\]"),
    ],
)
def test_other_weights_are_refused_by_name(part, change, message):
    with pytest.raises(WrongAnswer, match=message):
        searched(Method(change), problem_of(part)[1])


@pytest.mark.parametrize(
    ("part", "name"), [("attention", "part.in_proj_bias"), ("pruned", "part.weight_orig")]
)
def test_an_entry_of_the_network_as_given_has_its_shape(part, name):
    with pytest.raises(WrongAnswer, match=rf"weights\['{name}'\] is \[2\]: give a tensor"):
        searched(Method(lambda s: s.update({name: torch.ones(2)})), problem_of(part)[1])
