import math

import pytest
import torch
from torch import nn

from frameworks import Recipe, TensorSplit, first_nonfinite, fit, torch_rng


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_the_first_value_that_is_not_finite(value):
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    net.register_buffer("bound", torch.tensor([-math.inf, math.inf]))
    assert first_nonfinite(net) is None, "masks and bounds may be infinite"
    net[1].running_var[2] = value
    assert first_nonfinite(net) == "1.running_var"
    with torch.no_grad():
        net[0].bias[0] = value
    assert first_nonfinite(net) == "0.bias"


def test_statistics_that_no_loss_shows_are_no_result():
    """The last batch breaks a running mean after its own loss was finite."""

    class Late(nn.Linear):
        def forward(self, x):
            y = super().forward(x)
            self.running_mean = torch.full((3,), math.inf)
            return y

    net = Late(3, 2)
    net.register_buffer("running_mean", torch.zeros(3))
    data = TensorSplit(torch.randn(8, 3, generator=torch_rng(0)), torch.arange(8) % 2)
    with pytest.raises(FloatingPointError, match="running_mean is not finite after step 2"):
        fit(net, data, Recipe(batch=4), torch_rng(0))
