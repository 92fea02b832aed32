"""Small models for small images, registered with timm, and a factory for any timm model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from typing import Any, TypeVar

import timm
import torch
from timm.models import register_model
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.fingerprints.named_files import names_code
from benchmarks.models.files import build_of
from benchmarks.models.network_check import check_modules
from frameworks import Registry, UnknownName, seeded


@dataclass
class ModelConfig:
    """Which network.

    Attributes:
        name: any timm model name, among them this file's ``resnet8``, ``resnet20``, ``resnet56``
            and ``mobilenetv2_small``; a plugin's; or ``PATH.py:FUNCTION``, a factory of one's own,
            which gets ``num_classes`` and ``in_chans`` if it takes them.
        pretrained: start from timm's published weights (needs the network to be online).
        checkpoint: weights to use instead of pretraining: a safetensors file, or one that
            ``torch.load`` reads with ``weights_only=True`` (.pt, .pth, .ckpt).
        retrain: train here although the project has a network of this model, data and recipe (see
            `benchmarks.models.committed`); ``retrain=true`` and ``juxtabit run --retrain`` set it
            for all.
        options: further keyword arguments of the model.
        pretrain: entries that replace those of the dataset's pretraining recipe.
    """

    name: str = "resnet8"
    pretrained: bool = False
    checkpoint: str | None = None
    retrain: bool = False
    options: dict[str, Any] = field(default_factory=dict)
    pretrain: dict[str, Any] = field(default_factory=dict)

    @property
    def given(self) -> str | None:
        """The key that gives the weights, so that nothing is trained."""
        return "checkpoint" if self.checkpoint else "pretrained" if self.pretrained else None


models: Registry[Callable[..., nn.Module]] = Registry("model", "juxtabit.models", [])
"""Factories of plugins, called with timm's keywords; a plugin may register with timm instead."""


def create(config: ModelConfig, classes: int, input_shape: tuple[int, int, int]) -> nn.Module:
    """A freshly initialised model (or with timm's weights) for a dataset.

    Raises:
        UnknownName: timm knows no such model; the message lists the nearest names.
        ValueError: the model does not accept the options or the input.
    """
    if names_code(config.name):
        make: Callable[..., nn.Module] | None = build_of(config.name)
    else:
        make = models.get(config.name) if config.name in models.names() else None
    if make is None and not timm.is_model(config.name):
        near = get_close_matches(config.name, timm.list_models(), 8)
        raise UnknownName(
            f"unknown model {config.name!r}; juxtabit's own are resnet8, resnet20, resnet56 and "
            "mobilenetv2_small, and any name of timm.list_models() works"
            + (f" (the nearest are {', '.join(near)})" if near else "")
        )
    _check_published(config, classes)
    with seeded(0, "init", config.name):
        try:
            model: nn.Module = (make or timm.create_model)(
                *(() if make else (config.name,)),
                pretrained=config.pretrained,
                num_classes=classes,
                in_chans=input_shape[0],
                **config.options,
            )
        except (RuntimeError, TypeError, AssertionError) as error:
            raise _misfit(config, input_shape, error) from error
        check_modules(model, f"model {config.name}")
        model.eval()
        try:
            with torch.no_grad():
                model(torch.zeros(1, *input_shape))
        except Exception as error:
            raise _misfit(config, input_shape, error) from error
    return model.to(memory_format=torch.channels_last)


def pretrained_cfg(config: ModelConfig) -> dict[str, Any]:
    """What timm knows of a model's published weights and their images; empty if nothing.

    A model that is registered without such facts, a plugin's say, may carry them itself.
    """
    if (known := _published(config.name)) is not None:
        return dict(known.to_dict())
    try:
        made = create(replace(config, pretrained=False, checkpoint=None), 10, (3, 224, 224))
    except ValueError:
        return {}
    return dict(getattr(made, "pretrained_cfg", None) or {})


def _published(name: str) -> Any:
    """The facts in timm's registry; None for a model that is not there, or has none there."""
    if names_code(name):
        return None
    try:
        return timm.get_pretrained_cfg(name, allow_unregistered=True)
    except RuntimeError as error:
        raise UnknownName(f"model.name: {error}; timm.list_pretrained() lists the tags") from error


def _check_published(config: ModelConfig, classes: int) -> None:
    """A classifier that the published weights do not have would stay random."""
    if not config.pretrained or names_code(config.name) or config.name in models.names():
        return
    known = _published(config.name)
    if known is None:
        raise ValueError(
            f"model.pretrained: {config.name} has no published weights; use model.checkpoint=FILE "
            "or model.pretrained=false"
        )
    if known.num_classes != classes:
        raise ValueError(
            f"model.pretrained: the published weights of {config.name} know {known.num_classes} "
            f"classes, the data set has {classes}; use model.checkpoint=FILE with weights for "
            "them, or model.pretrained=false to train"
        )


def _misfit(config: ModelConfig, shape: tuple[int, int, int], error: Exception) -> ValueError:
    return ValueError(f"model {config.name} does not work on inputs of {shape}: {error}")


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (He et al., arXiv 1512.03385, projection option B)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = (
            nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )
            if stride > 1 or inputs != outputs
            else nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(self.bn1(self.conv1(x)))
        return functional.relu(self.bn2(self.conv2(y)) + self.downsample(x))


class SmallResNet(nn.Module):
    """The CIFAR ResNet with 6n+2 layers and 16, 32, 64 channels (arXiv 1512.03385, section 4.2)."""

    def __init__(self, blocks: int, num_classes: int = 10, in_chans: int = 3) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.conv1 = nn.Conv2d(in_chans, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        stages, inputs = [], 16
        for width, stride in ((16, 1), (32, 2), (64, 2)):
            stage = [
                BasicBlock(inputs if i == 0 else width, width, stride if i == 0 else 1)
                for i in range(blocks)
            ]
            stages.append(nn.Sequential(*stage))
            inputs = width
        self.layer1, self.layer2, self.layer3 = stages
        self.fc = nn.Linear(64, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.fc(x.mean((2, 3)))
        return logits


class InvertedResidual(nn.Module):
    """Expansion, depthwise and linear projection (Sandler et al., arXiv 1801.04381, table 1)."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.residual = stride == 1 and inputs == outputs
        self.conv_pw = nn.Conv2d(inputs, hidden, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(hidden)
        self.conv_dw = nn.Conv2d(hidden, hidden, 3, stride, 1, groups=hidden, bias=False)
        self.bn2 = nn.BatchNorm2d(hidden)
        self.conv_pwl = nn.Conv2d(hidden, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu6(self.bn1(self.conv_pw(x)))
        y = functional.relu6(self.bn2(self.conv_dw(y)))
        y = self.bn3(self.conv_pwl(y))
        out: Tensor = x + y if self.residual else y
        return out


class SmallMobileNetV2(nn.Module):
    """MobileNetV2 for images of 8 to 32 pixels: two strides of 2, expansion 4, 64 channels."""

    stages = ((16, 1, 1), (24, 2, 2), (32, 2, 2), (64, 1, 2))  # channels, stride, blocks

    def __init__(self, num_classes: int = 10, in_chans: int = 3) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.conv_stem = nn.Conv2d(in_chans, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        inputs, stages = 16, []
        for width, stride, count in self.stages:
            blocks = []
            for i in range(count):
                blocks.append(InvertedResidual(inputs, width, stride if i == 0 else 1, 4))
                inputs = width
            stages.append(nn.Sequential(*blocks))
        self.blocks = nn.Sequential(*stages)
        self.conv_head = nn.Conv2d(inputs, 128, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(128)
        self.classifier = nn.Linear(128, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu6(self.bn1(self.conv_stem(x)))
        x = functional.relu6(self.bn2(self.conv_head(self.blocks(x))))
        logits: Tensor = self.classifier(x.mean((2, 3)))
        return logits


Factory = TypeVar("Factory", bound=Callable[..., nn.Module])


def _registered(factory: Factory) -> Factory:
    register_model(factory)
    return factory


def _small(kind: type[nn.Module], kwargs: dict[str, Any], **fixed: Any) -> nn.Module:
    """Timm's factory passes bookkeeping keywords that these models do not take."""
    for key in ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"):
        kwargs.pop(key, None)
    return kind(**fixed, **kwargs)


@_registered
def resnet8(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """CIFAR-style ResNet-8: one block a stage, 77 thousand weights."""
    return _small(SmallResNet, kwargs, blocks=1)


@_registered
def resnet20(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """CIFAR-style ResNet-20: three blocks a stage."""
    return _small(SmallResNet, kwargs, blocks=3)


@_registered
def resnet56(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """CIFAR-style ResNet-56: nine blocks a stage."""
    return _small(SmallResNet, kwargs, blocks=9)


@_registered
def mobilenetv2_small(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """MobileNetV2 for small images."""
    return _small(SmallMobileNetV2, kwargs)
