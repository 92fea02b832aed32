"""The project's own networks, for small images; timm knows them, too, once it is loaded.

timm takes seconds to load, with torchvision behind it, and a run of these does without.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from torch import Tensor, nn
from torch.nn import functional


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


def _small(kind: type[nn.Module], kwargs: dict[str, Any], **fixed: Any) -> nn.Module:
    """Timm's factory passes bookkeeping keywords that these models do not take."""
    for key in ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"):
        kwargs.pop(key, None)
    return kind(**fixed, **kwargs)


def resnet8(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """CIFAR-style ResNet-8: one block a stage, 77 thousand weights."""
    return _small(SmallResNet, kwargs, blocks=1)


def resnet20(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """CIFAR-style ResNet-20: three blocks a stage."""
    return _small(SmallResNet, kwargs, blocks=3)


def resnet56(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """CIFAR-style ResNet-56: nine blocks a stage."""
    return _small(SmallResNet, kwargs, blocks=9)


def mobilenetv2_small(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """MobileNetV2 for small images."""
    return _small(SmallMobileNetV2, kwargs)


OWN: dict[str, Callable[..., nn.Module]] = {
    factory.__name__: factory for factory in (resnet8, resnet20, resnet56, mobilenetv2_small)
}
"""Factories by name, called with timm's keywords."""


def _register() -> None:
    from timm.models import register_model

    for factory in OWN.values():
        register_model(factory)


class _Registering(MetaPathFinder):
    """Registers these networks with timm as soon as anyone imports it, whoever comes first."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != "timm":
            return None
        sys.meta_path.remove(self)
        found = find_spec(name)
        if found is not None and found.loader is not None:
            execute = found.loader.exec_module

            def and_register(module: ModuleType) -> None:
                execute(module)
                _register()

            found.loader.exec_module = and_register  # type: ignore[method-assign]
        return found


if "timm" in sys.modules:
    _register()
else:
    sys.meta_path.insert(0, _Registering())
