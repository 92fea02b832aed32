"""The toy network with a convolution on the shortcut of its first block."""

import torch
from torch.nn import functional

from frameworks.testing import toy


class Block(toy.ConvBlock):
    """A block whose shortcut has a convolution: it reads what the first one reads, and both sum."""

    def __init__(self):
        super().__init__(8)
        self.downsample = torch.nn.Conv2d(8, 8, 1)

    def forward(self, x):
        y = functional.relu(self.bn1(self.conv1(x)), inplace=True)
        return functional.relu(self.downsample(x) + self.bn2(self.conv2(y)), inplace=True)


class WithShortcut(toy.ToyConvNet):
    def __init__(self):
        super().__init__()
        self.blocks[0] = Block()
