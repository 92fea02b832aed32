import copy
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import nn
from torch.nn import functional

from frameworks import Card, Framework, Solution
from frameworks.core.evaluation.train import cross_entropy, train_epoch
from frameworks.testing import FrameworkContract
from frameworks.testing.placement import GPU, Misplaced, pretended_gpu

X = torch.randn(7, 3, 8, 8, generator=torch.Generator().manual_seed(0))
Y = torch.arange(7) % 5


@pytest.fixture
def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5)
    )


def trained(model, x, y):
    """Losses of three steps, and a sum of second derivatives."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3)
    losses = []
    for _ in range(3):
        optimizer.zero_grad()
        loss = functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    weight = model[0].weight
    (first,) = torch.autograd.grad(functional.cross_entropy(model(x), y), weight, create_graph=True)
    (second,) = torch.autograd.grad((first**2).sum(), weight)
    return losses, float(second.sum())


def test_it_computes_what_the_cpu_computes(network):
    plain = trained(copy.deepcopy(network), X, Y)
    with pretended_gpu() as gpu:
        assert trained(copy.deepcopy(network).to(gpu), X.to(gpu), Y.to(gpu)) == plain


@pytest.mark.parametrize(
    "wrong",
    [
        lambda m, x, y: m(X),
        lambda m, x, y: x + X,
        lambda m, x, y: X[y],
        lambda m, x, y: x.numpy(),
        lambda m, x, y: torch.cat([x, X]),
        lambda m, x, y: torch.stack([x.sum(), torch.zeros(())]),
        lambda m, x, y: torch.where(x > 0, x, torch.zeros(1)),
        lambda m, x, y: functional.cross_entropy(m(x), Y),
        lambda m, x, y: x.mul_(torch.ones(8)),
        lambda m, x, y: torch.randperm(4, generator=torch.Generator(), device=x.device),
        lambda m, x, y: x.normal_(generator=torch.Generator()),
    ],
)
def test_what_a_gpu_would_refuse_raises(network, wrong):
    with pretended_gpu() as gpu:
        model, x, y = network.to(gpu), X.to(gpu), Y.to(gpu)
        with pytest.raises(Misplaced):
            wrong(model, x, y)


@pytest.mark.parametrize(
    ("right", "device"),
    [
        (lambda x, y: x * torch.tensor(2.0), "cuda"),
        (lambda x, y: x[torch.tensor([1, 2])], "cuda"),
        (lambda x, y: torch.zeros(3, device=x.device), "cuda"),
        (lambda x, y: x.new_tensor([1.0]), "cuda"),
        (lambda x, y: x.new_zeros(2), "cuda"),
        (lambda x, y: torch.zeros_like(x), "cuda"),
        (lambda x, y: functional.one_hot(y, 5), "cuda"),
        (lambda x, y: X.to(x), "cuda"),
        (lambda x, y: x.to(torch.float64), "cuda"),
        (lambda x, y: x.to(memory_format=torch.channels_last), "cuda"),
        (lambda x, y: copy.deepcopy(x), "cuda"),
        (lambda x, y: x.cpu() + X, "cpu"),
        (lambda x, y: x.to("cpu", torch.float64), "cpu"),
        (lambda x, y: x.to(X), "cpu"),
        (lambda x, y: X + 1, "cpu"),
        (lambda x, y: torch.from_numpy(x.cpu().numpy()), "cpu"),
        (lambda x, y: torch.tensor(x.tolist()), "cpu"),
    ],
)
def test_what_a_gpu_would_do_lies_where_it_would(right, device):
    with pretended_gpu() as gpu:
        assert right(X.to(gpu), Y.to(gpu)).device.type == device


def test_nothing_is_left_behind(network):
    with pretended_gpu():
        pass
    assert not torch.__future__.get_swap_module_params_on_conversion()
    assert torch.backends.cudnn.enabled
    assert network(X).device.type == "cpu"


def test_a_training_loop_leaves_its_values_on_the_cpu(network):
    with pretended_gpu() as gpu:
        model = network.to(gpu)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        loss = train_epoch(model, [(X.to(gpu), Y.to(gpu))], [optimizer], cross_entropy)
        assert isinstance(loss, float)
        assert {p.device for p in model.parameters()} == {GPU}


@dataclass
class OnTheCPU(Framework):
    """A method whose noise is always on the CPU."""

    name: ClassVar[str] = "on_the_cpu"
    card: ClassVar[Card] = Card(
        title="", year=2026, category="heuristic", quantizer="mse", granularity="layer",
        searches=("weight",), needs=frozenset({"calibration", "valid"}),
    )  # fmt: skip

    def search(self, problem):
        model = problem.float_model()
        with torch.no_grad():
            model(problem.images + torch.zeros(problem.images.shape))
        return Solution(problem.space.lowest())


def test_the_contract_catches_a_method_born_for_the_cpu():
    contract = FrameworkContract()
    contract.framework = OnTheCPU()
    # On a machine with a GPU it is torch that raises.
    with pytest.raises(RuntimeError, match="two devices"):
        contract.test_computes_where_the_problem_is()
