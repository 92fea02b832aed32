import copy
import math

import pytest
import torch
from torch import nn

from frameworks.heuristic.zeroq.distilled import StatisticsLoss, distil, moments
from frameworks.testing import toy


def generator():
    return torch.Generator().manual_seed(0)


def test_moments_by_hand():
    # Two images, one channel of two positions: 1, 3 and 5, 7.
    x = torch.tensor([[[[1.0, 3.0]]], [[[5.0, 7.0]]]])
    mean, deviation = moments(x)
    assert mean.tolist() == [[4.0]]
    assert deviation.item() == pytest.approx(math.sqrt(20 / 3), rel=1e-5)
    mean, deviation = moments(x, per_image=True)
    assert mean.tolist() == [[2.0], [6.0]]
    assert deviation.flatten().tolist() == pytest.approx([math.sqrt(2)] * 2, rel=1e-5)


def test_one_position_an_image_counts_over_the_batch():
    x = torch.tensor([[[[1.0]]], [[[5.0]]]])
    for alone in (False, True):
        mean, deviation = moments(x, alone)
        assert mean.tolist() == [[3.0]]
        assert deviation.item() == pytest.approx(math.sqrt(8), rel=1e-5)
    assert moments(torch.tensor([[1.0], [5.0]]))[0].tolist() == [[3.0]]
    assert torch.isfinite(moments(torch.ones(1, 2, 1, 1))[1]).all()


class Scaled(nn.Module):
    """One BatchNorm behind a multiplication by 2."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(2.0))
        self.norm = nn.BatchNorm2d(1)
        self.norm.running_mean.fill_(1.0)
        self.norm.running_var.fill_(16.0)

    def forward(self, x):
        return self.norm(self.weight * x)


def test_the_loss_by_hand():
    # Images with mean 1.5, deviation sqrt(5/3): gaps 1.5 - 0 and sqrt(5/3) - 1; behind the
    # multiplication mean 3, deviation 2 sqrt(5/3): gaps 3 - 1 and 2 sqrt(5/3) - 4.
    x = torch.tensor([0.0, 1.0, 2.0, 3.0]).view(2, 1, 1, 2)
    s = math.sqrt(5 / 3)
    expected = 1.5**2 + (s - 1) ** 2 + 2**2 + (2 * s - 4) ** 2
    assert float(StatisticsLoss(Scaled().eval())(x).detach()) == pytest.approx(expected, rel=1e-5)


def test_the_loss_of_each_image_by_itself_by_hand():
    x = torch.tensor([[[[1.0, 3.0]]], [[[5.0, 7.0]]]])
    s = math.sqrt(2)
    images = (2**2 + 6**2) / 2 + (s - 1) ** 2
    inner = ((4 - 1) ** 2 + (12 - 1) ** 2) / 2 + (2 * s - 4) ** 2
    loss = StatisticsLoss(Scaled().eval(), per_image=True)(x)
    assert float(loss.detach()) == pytest.approx(images + inner, rel=1e-5)


def test_the_loss_is_zero_where_all_statistics_agree():
    model = nn.Sequential(nn.BatchNorm2d(2)).eval()
    x = torch.randn(50, 2, 4, 4, generator=generator())
    mean, deviation = moments(x)
    x = (x - mean.view(1, 2, 1, 1)) / deviation.view(1, 2, 1, 1)
    assert float(StatisticsLoss(model)(x)) == pytest.approx(0, abs=1e-10)


def test_the_gradient_is_that_of_the_formula():
    model = Scaled().double().eval()
    loss = StatisticsLoss(model)
    x = torch.randn(3, 1, 2, 2, generator=generator(), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(loss, x)


def test_distillation_matches_the_statistics_of_a_trained_network():
    model = toy.network()
    before = {k: v.clone() for k, v in model.state_dict().items()}

    made = distil(copy.deepcopy(model), toy.SHAPE, generator(), count=32, steps=120)
    assert made.losses[-1] < made.losses[0] / 10
    assert made.images.shape == (32, *toy.SHAPE)
    assert not made.images.requires_grad
    assert len(made.losses) == 121
    real = float(StatisticsLoss(copy.deepcopy(model))(toy.split("train", 256).x[:32]).detach())
    # As close as a batch of the images that the statistics were taken from.
    assert made.losses[-1] < real
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_images_differ_by_seed_and_agree_for_the_same():

    def made(seed):
        model = copy.deepcopy(toy.network())
        return distil(model, toy.SHAPE, torch.Generator().manual_seed(seed), count=4, steps=3)

    assert torch.equal(made(0).images, made(0).images)
    assert not torch.equal(made(0).images, made(1).images)


def test_a_model_without_batchnorm_is_refused():
    with pytest.raises(ValueError, match="no BatchNorm"):
        distil(nn.Sequential(nn.Conv2d(3, 2, 1)), toy.SHAPE, generator(), steps=1)


def test_statistics_that_are_not_kept_do_not_count():
    model = nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False))
    with pytest.raises(ValueError, match="no BatchNorm"):
        StatisticsLoss(model)
