"""Convolutions on a block's shortcut, which methods tie to the block's main path."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence

from frameworks.core.layers import Layer

SHORTCUT = re.compile(r"down_?sample|short_?cut|skip|identity|residual", re.IGNORECASE)
"""What the name of a layer on a shortcut has in it."""


def downsample_ties(layers: Sequence[Layer]) -> list[tuple[str, str]]:
    """Each block's shortcut convolution with the block's first convolution.

    A shortcut is told by its name and by reading the same input channels as the first convolution
    of its block's main path.
    """
    blocks: dict[str, list[Layer]] = defaultdict(list)
    for layer in layers:
        if layer.kind == "conv":
            blocks[layer.block].append(layer)
    ties = []
    for block, members in blocks.items():
        shortcuts = [x for x in members if SHORTCUT.search(x.name.removeprefix(block))]
        first = next((x for x in members if x not in shortcuts), None)
        for shortcut in shortcuts:
            if first is not None and shortcut.in_channels == first.in_channels:
                ties.append((first.name, shortcut.name))
    return ties
