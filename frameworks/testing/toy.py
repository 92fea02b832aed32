"""Toy problems: a small trained network on separable data, so that a search takes milliseconds.

For the tests of frameworks, targets and schemes, here and in plugins (see `frameworks.testing`).
Weights and activations matter to the networks: few bits cost them accuracy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from frameworks.core.budget import BudgetSpec
from frameworks.core.card import NEEDS
from frameworks.core.evaluation.train import Recipe, fit
from frameworks.core.layers import Layer
from frameworks.core.networks.taking.describe import describe
from frameworks.core.policy import PRUNED, LayerBits, Policy
from frameworks.core.pricing.support import supported_space
from frameworks.core.problem import Data, Problem
from frameworks.core.randomness import seeded, torch_rng
from frameworks.core.registry import schemes, targets
from frameworks.core.split import TensorSplit
from frameworks.core.target import SeparableTarget, Target

CLASSES = 4
SHAPE = (3, 8, 8)
DATA_NEEDS = ("calibration", "train", "valid")


class ConvBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(self.bn1(self.conv1(x)))
        return functional.relu(x + self.bn2(self.conv2(y)))


class SeparableBlock(nn.Module):
    """A depthwise 3x3 convolution of stride 2 and a pointwise one."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(inputs, inputs, 3, 2, 1, groups=inputs, bias=False)
        self.bn1 = nn.BatchNorm2d(inputs)
        self.pointwise = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.bn1(self.depthwise(x)))
        return functional.relu(self.bn2(self.pointwise(x)))


class ToyConvNet(nn.Module):
    """A stem, a residual block, a depthwise separable block and a linear classifier."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.stem = nn.Conv2d(SHAPE[0], width, 3, 1, 1, bias=False)
        self.bn = nn.BatchNorm2d(width)
        self.blocks = nn.Sequential(ConvBlock(width), SeparableBlock(width, 2 * width))
        self.fc = nn.Linear(2 * width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(functional.relu(self.bn(self.stem(x))))
        return self.fc(x.mean((2, 3)))  # type: ignore[no-any-return]


class Attention(nn.Module):
    """A pre-norm transformer block with one head."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.fc1, self.fc2 = nn.Linear(dim, 2 * dim), nn.Linear(2 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm1(x)).chunk(3, dim=-1)
        # Written out, as the fused kernel has no second derivative.
        weights = (q @ k.transpose(1, 2) / q.shape[-1] ** 0.5).softmax(-1)
        x = x + self.proj(weights @ v)
        out: Tensor = x + self.fc2(functional.gelu(self.fc1(self.norm2(x))))
        return out


class ToyViT(nn.Module):
    """Patches of 4x4, one transformer block, mean pooling; it has no BatchNorm."""

    def __init__(self, dim: int = 12) -> None:
        super().__init__()
        self.patch = nn.Conv2d(SHAPE[0], dim, 4, 4)
        self.position = nn.Parameter(torch.zeros(1, 4, dim))
        self.blocks = nn.Sequential(Attention(dim))
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2) + self.position
        return self.head(self.norm(self.blocks(x)).mean(1))  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Peak(Target):
    """The largest layer's weights in bytes: a cost that is not a sum over layers."""

    name: ClassVar[str] = "peak"
    kind: ClassVar[Literal["model", "table", "measured"]] = "model"
    metrics: ClassVar[Mapping[str, str]] = {"peak": "bytes"}
    separable: ClassVar[bool] = False
    prices_activations: ClassVar[bool] = False

    def cost(self, layers: Sequence[Layer], policy: Policy) -> dict[str, float]:
        return {"peak": max(x.params * policy[x.name].mean_weight / 8 for x in layers)}


@dataclass(frozen=True)
class Valley(SeparableTarget):
    """A core made for four bits, cheapest there: fewer bits, which it unpacks, cost more."""

    name: ClassVar[str] = "valley"
    kind: ClassVar[Literal["model", "table", "measured"]] = "model"
    metrics: ClassVar[Mapping[str, str]] = {"time": "cycles", "size": "bytes"}
    per_channel: ClassVar[bool] = False
    monotone: ClassVar[bool] = False

    def layer_cost(self, layer: Layer, bits: LayerBits) -> dict[str, float]:
        steps = 1 + abs(bits.mean_weight - 4) + abs(bits.act - 4)
        time = layer.macs * steps if bits.weight != PRUNED else 0.0
        return {"time": time, "size": layer.stored * bits.mean_weight / 8}


@cache
def split(name: str, count: int) -> TensorSplit:
    """``count`` images ``[3, 8, 8]``: a fixed pattern for each class, dimmed, under noise."""
    patterns = torch.randn(CLASSES, *SHAPE, generator=torch_rng(0, "toy-patterns"))
    generator = torch_rng(0, "toy", name)
    y = torch.arange(count) % CLASSES
    strength = 0.3 + 0.4 * torch.rand(count, 1, 1, 1, generator=generator)
    x = strength * patterns[y] + torch.randn(count, *SHAPE, generator=generator)
    return TensorSplit(x, y)


@cache
def network(kind: type[nn.Module] = ToyConvNet) -> nn.Module:
    """A trained network of one of the kinds above, in eval mode; shared, so do not change it."""
    with seeded(0, "toy", kind.__name__):
        model = kind()
        recipe = Recipe(epochs=15, batch=32, optimizer="adam", lr=0.01)
        return fit(model, split("train", 256), recipe, torch_rng(0, "toy-train"))


def make_problem(
    target: Target | str = "bops",
    like: float | None = 3,
    *,
    kind: type[nn.Module] = ToyConvNet,
    budget: BudgetSpec | None = None,
    bits: Sequence[int] = (2, 3, 4, 5, 6, 8),
    paired: bool = False,
    groups: Sequence[Sequence[str]] = (),
    scheme: str = "mse",
    needs: Sequence[str] | frozenset[str] = DATA_NEEDS,
    **fields: Any,
) -> Problem:
    """A problem on a toy network: first and last layer pinned at 8 bits.

    Args:
        target: a target, or the name of one that needs no options.
        like: the budget, unless ``budget`` is given.
        kind: the network's class.
        bits: candidates of weights and activations (of a target that does not price
            activations, these are pinned at 8); each layer gets those that the target supports.
        paired: weights and activations have equal bits.
        groups: layers that share their bits.
        scheme: name of a quantization scheme.
        needs: the search gets the data named here, as by a card's ``needs``.
        fields: further fields of `Problem` (``seed``, ``retrains``, ``recipe``, ...).
    """
    assert set(needs) <= set(NEEDS), f"needs = {sorted(needs)}: choose from {', '.join(NEEDS)}"
    priced: Target = targets.get(target)() if isinstance(target, str) else target
    model = network(kind)  # type: ignore[arg-type]
    layers = describe(model, SHAPE)
    acts = bits if priced.prices_activations else (8,)
    pinned = {layer.name: (8, 8) for layer in (layers[0], layers[-1])}
    space = supported_space(priced, layers, bits, acts, pinned=pinned, groups=groups, paired=paired)
    data = Data(
        split("train", 256) if "train" in needs else None,
        split("valid", 128) if "valid" in needs else None,
        split("train", 256).images(64) if "calibration" in needs else None,
    )
    return Problem(
        network=model,
        space=space,
        target=priced,
        budget=(budget or BudgetSpec(like=like)).resolve(priced, space),
        scheme=schemes.get(scheme)(),
        data=data,
        **{"recipe": Recipe(epochs=1, batch=32, lr=0.01), **fields},
    )
