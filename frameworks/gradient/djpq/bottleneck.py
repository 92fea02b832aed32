"""Gates that prune output channels by how much they tell: a variational information bottleneck.

VIBNet (Dai, Zhu, Guo and Wipf, arXiv 1802.10399; released code zhuchen03/VIBNet), on which DJPQ
(arXiv 2007.10463) prunes. The outputs of channel i are multiplied by a random number, anew for each
image, whose information about the input is bounded by the ratio of its mean to its noise::

    h_i = z_i f_i(x),   z_i = mu_i + sigma_i eps,   eps ~ N(0, 1)
    L_VIB = sum_l H_l W_l / 2 sum_i log(1 + mu_i^2 / sigma_i^2)

mu starts at N(1, 0.01), log sigma^2 at N(-9, 0.01) (standard deviations). A channel whose ratio
mu^2 / sigma^2 is below a threshold tells nothing and is pruned; the others are multiplied by mu.

The gates stand directly behind a layer's BatchNorm and before the activation function, where mu is
a part of BatchNorm's scale and shift, and a pruned channel is 0.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from frameworks.core.layers import Layer
from frameworks.core.networks.qmodel import QModel
from frameworks.core.policy import PRUNED, Policy
from frameworks.core.problem import Problem

LOG_VARIANCE = -9.0
SPREAD = 0.01
SHARPNESS = 0.1
"""Width of the soft count of channels, in the logarithm of the ratio."""
NO_VARIANCE = 1e-8


class Bottleneck(nn.Module):
    """The gates of one layer's output channels.

    Args:
        channels: how many.
        positions: H W, by which the layer's information is weighed.
        generator: draws the first mu and log sigma^2.
    """

    def __init__(self, channels: int, positions: int, generator: torch.Generator) -> None:
        super().__init__()
        first = SPREAD * torch.randn(2, channels, generator=generator)
        self.mu = nn.Parameter(1 + first[0])
        self.log_variance = nn.Parameter(LOG_VARIANCE + first[1])
        self.positions = positions

    def sample(self, images: int, generator: torch.Generator) -> Tensor:
        """A draw of all gates for each image ``[N, C]``, differentiable in mu and sigma."""
        eps = torch.randn(images, len(self.mu), generator=generator).to(self.mu.device)
        return self.mu + (self.log_variance / 2).exp() * eps

    def log_ratio(self) -> Tensor:
        """``log(mu^2 / sigma^2)`` of each channel ``[C]``."""
        return (self.mu.square() + NO_VARIANCE).log() - self.log_variance

    def information(self) -> Tensor:
        """The layer's part of L_VIB, a scalar."""
        ratio = self.mu.square() / (self.log_variance.exp() + NO_VARIANCE)
        return self.positions / 2 * torch.log1p(ratio).sum()

    def soft_share(self, threshold: float) -> Tensor:
        """The share of channels above the threshold, a scalar, counted by a steep sigmoid."""
        return torch.sigmoid((self.log_ratio() - math.log(threshold)) / SHARPNESS).mean()

    @torch.no_grad()
    def kept(self, threshold: float) -> Tensor:
        """Whether each channel is above the threshold ``[C]``."""
        return self.log_ratio() >= math.log(threshold)


def norms_behind(problem: Problem) -> dict[str, str]:
    """The BatchNorm, by name, that reads a layer's output directly.

    Layers and BatchNorms that run once, and BatchNorms with a scale and a shift. The pass is not
    search cost.
    """
    network = copy.deepcopy(problem.network).eval()
    outputs: list[tuple[str, Tensor]] = []
    inputs: list[tuple[str, Tensor]] = []
    for layer in problem.layers:
        _record(network.get_submodule(layer.name), layer.name, outputs)
    for name, module in network.named_modules():
        if isinstance(module, _BatchNorm) and module.affine:
            module.register_forward_pre_hook(lambda _, args, n=name: inputs.append((n, args[0])))
    like = next(network.parameters())
    with torch.no_grad():
        network(torch.zeros(1, *problem.input_shape, dtype=like.dtype, device=like.device))
    pairs = [(a, b) for a, made in outputs for b, read in inputs if made is read]
    once = _single(name for name, _ in outputs) | _single(name for name, _ in inputs)
    return {layer: norm for layer, norm in pairs if {layer, norm} <= once}


def _record(module: nn.Module, name: str, into: list[tuple[str, Tensor]]) -> None:
    def hook(module: nn.Module, args: Any, out: Tensor) -> None:
        into.append((name, out))

    module.register_forward_hook(hook)


def _single(names: Iterable[str]) -> set[str]:
    every = list(names)
    return {name for name in every if every.count(name) == 1}


def hold_pruned(qmodel: QModel, policy: Policy, norms: Mapping[str, str]) -> None:
    """Keep pruned channels at 0 behind their layers' BatchNorms while these are trained.

    Args:
        qmodel: the network.
        policy: with 0 bits for pruned channels.
        norms: by layer, the name of the BatchNorm behind it.
    """
    for name, norm in norms.items():
        channels = policy[name].channels(qmodel.qlayer(name).layer.out_channels)
        kept = torch.tensor([bits != PRUNED for bits in channels])
        _hold(qmodel.model.get_submodule(norm), kept)


def _hold(norm: nn.Module, kept: Tensor) -> None:
    """Keep a BatchNorm's pruned channels (False in ``kept [C]``) at 0 while it is trained."""
    for parameter in (norm.weight, norm.bias):
        assert isinstance(parameter, nn.Parameter)
        mask = kept.to(parameter.device, parameter.dtype)
        parameter.data.mul_(mask)
        parameter.register_hook(lambda grad, mask=mask: grad * mask)  # type: ignore[no-untyped-call]


@torch.no_grad()
def fold(norm: nn.Module, gate: Bottleneck, threshold: float) -> None:
    """Multiply a BatchNorm's scale and shift, in place, by mu, or 0 where a channel is pruned."""
    for parameter in (norm.weight, norm.bias):
        assert isinstance(parameter, nn.Parameter)
        parameter.mul_(gate.mu * gate.kept(threshold))


def gated_layers(problem: Problem, searched: Iterable[Layer]) -> dict[str, str]:
    """Of the searched layers, those that may lose channels, each with its BatchNorm.

    A weight that several layers use keeps all of its channels.
    """
    behind = norms_behind(problem)
    sources = {layer.shared for layer in problem.layers}
    return {
        layer.name: behind[layer.name]
        for layer in searched
        if layer.name in behind and not layer.shared and layer.name not in sources
    }
