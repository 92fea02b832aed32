import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax, softmax
from torch import nn
from torch.nn import functional

from frameworks.core.evaluation.distillation import distillation
from frameworks.core.evaluation.train import Recipe, cross_entropy, fit
from frameworks.core.networks.meter import Meter
from frameworks.core.randomness import seeded, torch_rng
from frameworks.core.split import TensorSplit
from frameworks.testing.placement import GPU, some_gpu


class Table(nn.Module):
    """Logits that are given, one row an image."""

    def __init__(self, logits):
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, x):
        return self.logits[: len(x)]


def net(seed, classes=3):
    with seeded(seed):
        return nn.Sequential(
            nn.Conv2d(3, 4, 1),
            nn.BatchNorm2d(4),
            nn.Flatten(),
            nn.Dropout(),
            nn.Linear(16, classes),
        )


@pytest.fixture
def split():
    generator = torch_rng(0)
    x = torch.randn(20, 3, 2, 2, generator=generator)
    return TensorSplit(x, torch.randint(3, (20,), generator=generator))


rows = st.lists(st.lists(st.floats(-8, 8), min_size=3, max_size=3), min_size=1, max_size=4)


@settings(max_examples=40)
@given(rows, st.integers(0, 9), st.floats(0.5, 20), st.floats(0, 1))
def test_the_formula_by_numpy(z, seed, temperature, weight):
    z = np.array(z)
    v = np.random.default_rng(seed).normal(size=z.shape)
    y = np.arange(len(z)) % 3
    p = softmax(v / temperature, axis=1)
    apart = log_softmax(v / temperature, axis=1) - log_softmax(z / temperature, axis=1)
    divergence = (p * apart).sum(1).mean()
    hard = -log_softmax(z, axis=1)[np.arange(len(z)), y].mean()
    expected = weight * temperature**2 * divergence + (1 - weight) * hard
    loss = distillation(Table(torch.tensor(v)), temperature, weight)
    found = loss(Table(torch.tensor(z)), torch.zeros(len(z), 1), torch.tensor(y))
    assert float(found.detach()) == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_the_gradient_at_a_high_temperature_is_the_papers():
    """Section 2.1, equation 4: (z - v) / N of logits with a mean of zero, N classes."""
    z, v = (torch.randn(5, 4, dtype=torch.float64, generator=torch_rng(i)) for i in (0, 1))
    student = Table(z)
    loss = distillation(Table(v), temperature=1e4, weight=1)
    loss(student, torch.zeros(5, 1), torch.zeros(5).long()).backward()
    centred = (z - z.mean(1, keepdim=True)) - (v - v.mean(1, keepdim=True))
    torch.testing.assert_close(student.logits.grad * 5, centred / 4, rtol=1e-3, atol=1e-5)


def test_the_ends_of_the_weight():
    x, y = torch.randn(6, 3, 2, 2, generator=torch_rng(0)), torch.arange(6) % 3
    student, teacher = net(0).eval(), net(1)
    assert distillation(teacher, 2, 0)(student, x, y) == cross_entropy(student, x, y)
    assert distillation(student, 2, 1)(student, x, y).item() == 0
    unlabelled = torch.full((6,), -1)
    assert torch.isfinite(distillation(teacher, 2, 1)(student, x, unlabelled))


def test_soft_labels_are_shares():
    x, y = torch.randn(6, 3, 2, 2, generator=torch_rng(0)), torch.arange(6) % 3
    student, loss = net(0).eval(), distillation(net(1), 2, 0.5)
    hard, soft = loss(student, x, y), loss(student, x, functional.one_hot(y, 3).float())
    torch.testing.assert_close(hard, soft)


def test_the_teacher_rests_and_is_left_as_it_was():
    teacher, student = net(1).train(), net(0)
    teacher[1].eval()
    before, modes = copy.deepcopy(teacher.state_dict()), [m.training for m in teacher.modules()]
    x, y = torch.randn(6, 3, 2, 2, generator=torch_rng(0)), torch.arange(6) % 3
    seen = []
    teacher[3].register_forward_hook(
        lambda m, *_: seen.append((m.training, torch.is_grad_enabled()))
    )
    distillation(teacher)(student, x, y).backward()
    assert seen == [(False, False)]
    assert [m.training for m in teacher.modules()] == modes
    assert all(torch.equal(before[name], value) for name, value in teacher.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in teacher.parameters())
    assert all(p.grad is not None for p in student.parameters())


def test_a_teacher_is_put_back_after_an_error():
    class Broken(nn.Module):
        def forward(self, x):
            raise OSError("broken")

    teacher = Broken()
    with pytest.raises(OSError, match="broken"):
        distillation(teacher)(net(0), torch.zeros(2, 3, 2, 2), torch.zeros(2).long())
    assert teacher.training


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("best",), "teacher = 'best': give 'float' or a torch module"),
        ((None,), "teacher = None"),
        (("float", 0.0), r"temperature = 0\.0: give a finite number above 0"),
        (("float", math.nan), "temperature = nan"),
        (("float", 2.0, 1.5), r"weight = 1\.5: give a number from 0 to 1"),
        (("float", 2.0, math.nan), "weight = nan"),
    ],
)
def test_what_cannot_be_a_distillation(arguments, message):
    with pytest.raises(ValueError, match=message):
        distillation(*arguments)


def test_other_classes_are_refused():
    with pytest.raises(ValueError, match=r"teacher: it gives \[2, 5\], the network \[2, 3\]"):
        distillation(net(1, 5))(net(0), torch.zeros(2, 3, 2, 2), torch.zeros(2).long())


def test_a_training_by_a_teacher_is_one_by_its_loss(split):
    teacher, recipe = net(1), Recipe(epochs=2, batch=8, lr=0.1)

    def by_hand(model, x, y):
        with torch.no_grad():
            v = copy.deepcopy(teacher).eval()(x)
        z = model(x)
        apart = functional.kl_div((z / 4).log_softmax(1), (v / 4).softmax(1), reduction="batchmean")
        return 0.9 * 16 * apart + 0.1 * functional.cross_entropy(z, y)

    nets = []
    for how in ({"teacher": teacher}, {"loss": distillation(teacher)}, {"loss": by_hand}, {}):
        with seeded(0):  # dropout
            nets.append(fit(net(0), split, recipe, torch_rng(0), **how)[4].weight.detach())
    assert torch.equal(nets[0], nets[1])
    torch.testing.assert_close(nets[0], nets[2], rtol=1e-4, atol=1e-6)
    assert not torch.allclose(nets[0], nets[3], rtol=1e-2)


def test_wrong_use(split):
    teacher = net(1)
    with pytest.raises(ValueError, match="loss and teacher: give one"):
        fit(net(0), split, Recipe(), torch_rng(0), teacher=teacher, loss=cross_entropy)
    with pytest.raises(ValueError, match=r"'float' is known to problem\.fine_tune"):
        fit(net(0), split, Recipe(), torch_rng(0), teacher="float")


def test_images_of_a_teacher_are_counted_once():
    x, y = torch.zeros(2, 3, 2, 2), torch.zeros(2).long()
    plain, watched, meter = net(1), net(2), Meter()
    meter.watch(watched)
    both = nn.ModuleList([net(3), watched])
    both.forward = lambda x: both[0](x) + both[1](x)
    for teacher, images in ((plain, 2), (watched, 2), (both, 2)):
        before = meter.images_forward
        distillation(teacher).metered(meter, lambda: plain)(net(0), x, y)
        assert meter.images_forward - before == images
    distillation().metered(meter, lambda: watched)(net(0), x, y)
    assert meter.images_forward == 8
    assert not plain._forward_hooks


def test_a_teacher_that_lies_elsewhere_is_copied_and_still_counted():
    meter, x, y = Meter(), torch.zeros(2, 3, 2, 2), torch.zeros(2).long()
    teacher = net(1)
    loss = distillation(teacher).metered(meter, net)
    assert loss.on(torch.device("cpu")) is loss
    with some_gpu() as gpu:
        student = net(0).to(gpu)
        loss.on(gpu)(student, x.to(gpu), y.to(gpu)).backward()
        assert student[4].weight.grad.device == GPU
        assert {p.device.type for p in teacher.parameters()} == {"cpu"}
    assert meter.images_forward == 2
