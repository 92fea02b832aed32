"""Distilled data: images made from the BatchNorm statistics of a trained network, from no data.

Cai et al. ("ZeroQ", arXiv 2001.00281) start from Gaussian noise x and minimise over the images

    sum_{i=0..L} ||mu~_i(x) - mu_i||^2 + ||sigma~_i(x) - sigma_i||^2,

where mu_i, sigma_i are the mean and standard deviation that the i-th BatchNorm has stored for its
input, mu~_i, sigma~_i those of its input on x, and i = 0 stands for the images themselves, whose
channels are to have mean 0 and deviation 1. Norms are over channels. The weights stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from frameworks.core.networks.batchnorm import batchnorms

EPSILON = 1e-6
"""Added to variances before the root, whose gradient has no bound at 0."""


@dataclass(frozen=True)
class Distilled:
    """What the distillation made.

    Attributes:
        images: ``[N, C, H, W]``.
        losses: the loss before each step, and after the last one.
    """

    images: Tensor
    losses: tuple[float, ...]


def moments(x: Tensor, per_image: bool = False) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel of ``x [N, C, ...]``, as ``[1 or N, C]``.

    Over all images together, or over the positions of each image by itself (where it has more than
    one). The variance is unbiased, as the one that BatchNorm stores.
    """
    flat = x.flatten(2) if x.dim() > 2 else x[:, :, None]
    if not per_image or flat.shape[2] == 1:
        flat = flat.transpose(0, 1).flatten(1)[None]
    variance = flat.var(2, correction=min(1, flat.shape[2] - 1))
    return flat.mean(2), (variance + EPSILON).sqrt()


class StatisticsLoss:
    """The loss above for the batch that went through the network last.

    Args:
        model: a network in eval mode, with BatchNorm; its modules are hooked, so take a copy.
        per_image: statistics of each image by itself, the loss averaged over images.
    """

    def __init__(self, model: nn.Module, per_image: bool = False) -> None:
        self.model, self.per_image = model, per_image
        self._inputs: dict[nn.Module, Tensor] = {}
        self._stored: dict[nn.Module, tuple[Tensor, Tensor]] = {}
        for norm in batchnorms(model):
            assert norm.running_mean is not None
            assert norm.running_var is not None
            deviation = (norm.running_var.detach() + EPSILON).sqrt()
            self._stored[norm] = (norm.running_mean.detach(), deviation)
            norm.register_forward_pre_hook(self._keep)
        if not self._stored:
            raise ValueError("distilled data need BatchNorm statistics; the model has no BatchNorm")

    def _keep(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        self._inputs[module] = args[0]

    def __call__(self, images: Tensor) -> Tensor:
        """The loss of images ``[N, C, H, W]``."""
        self._inputs.clear()
        self.model(images)
        zero, one = images.new_zeros(images.shape[1]), images.new_ones(images.shape[1])
        total = self._distance(images, zero, one)
        for norm, x in self._inputs.items():
            total = total + self._distance(x, *self._stored[norm])
        return total

    def _distance(self, x: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
        ours = moments(x, self.per_image)
        gaps = [
            (a - b).square().sum(1).mean() for a, b in zip(ours, (mean, deviation), strict=True)
        ]
        return gaps[0] + gaps[1]


def distil(
    model: nn.Module,
    shape: Sequence[int],
    generator: torch.Generator,
    *,
    count: int = 64,
    steps: int = 500,
    lr: float = 0.5,
    patience: int = 100,
    lowest_lr: float = 1e-4,
    per_image: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Distilled:
    """Make images whose statistics in every BatchNorm are the stored ones.

    Args:
        model: a float network in eval mode; a copy that may be hooked, its weights are frozen.
        shape: shape of one image.
        generator: draws the noise to start from.
        count: how many images, distilled as one batch.
        steps: of Adam.
        lr: its learning rate, times 0.1 whenever the loss has not fallen for ``patience`` steps.
        lowest_lr: the rate falls no further.
        per_image: see `StatisticsLoss`.
        progress: called with the steps done and to do.

    Raises:
        ValueError: the model has no BatchNorm that keeps statistics.
    """
    model.requires_grad_(False)
    parameter = next(model.parameters())
    noise = torch.randn(count, *shape, generator=generator)
    images = noise.to(parameter.device, parameter.dtype).requires_grad_()
    loss_of = StatisticsLoss(model, per_image)
    optimizer = torch.optim.Adam([images], lr=lr)
    schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, patience=patience, min_lr=lowest_lr
    )
    losses: list[float] = []
    for step in range(steps):
        progress(step, steps)
        optimizer.zero_grad()
        loss = loss_of(images)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(float(loss.detach()))
        schedule.step(losses[-1])
    with torch.no_grad():
        losses.append(float(loss_of(images)))
    return Distilled(images.detach(), tuple(losses))
