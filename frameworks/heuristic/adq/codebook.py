"""ADQ's weights: a codebook a layer, started at quantiles, that follows the weights it stands for.

Jia et al., "Adaptive Distribution-aware Quantization for Mixed-Precision Neural Networks", arXiv
2510.19760. Stage 1: the positive and the negative weights of a layer are taken apart, quantiles of
each are the levels of its side, and zero is added. With m = 2^(b-1) - 1 levels a side,

    c_j = quantile_{(j + 1/2) / m}(side),   j = 0 .. m - 1,

which makes 2^b - 1 levels; one bit, with no room for the zero, has the medians of both sides. A
weight goes to its nearest level (of two, the lower one), and the gradient passes straight through.
Stage 2: after each step of training the levels follow by an exponential moving average

    c_k <- mu c_k + (1 - mu) mean{w : a(w) = k},   mu = 0.99,

where the zero stays zero and a level without weights stays where it is. Every mean lies within the
cell of its level, so that levels never change their order.

What is known of the paper's text ends with the quantiles; their places, mu and what becomes of zero
and of empty cells are this project's.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from frameworks.core.quantizers.base import Codes, Quantizer, straight_through
from frameworks.core.quantizers.kmeans import cluster_means

MOMENTUM = 0.99


def quantile_levels(weight: Tensor, bits: int) -> Tensor:
    """The first levels ``[K]`` of a weight tensor, ascending, K <= 2^bits.

    A side without weights has no levels; interpolation between values is linear.
    """
    values = weight.detach().double().flatten().cpu().numpy()
    count = max(2 ** (bits - 1) - 1, 1)
    places = (np.arange(count) + 0.5) / count
    sides = [side for side in (values[values < 0], values[values > 0]) if len(side)]
    found = [np.quantile(side, places) for side in sides]
    if bits > 1 or not found:
        found.append(np.zeros(1))
    return torch.from_numpy(np.unique(np.concatenate(found))).to(weight)


class Codebook(Quantizer):
    """Levels of any distance for a whole tensor, which in training follow the weights.

    Args:
        levels: ``[K]``, ascending; zero among them stays.
    """

    levels: Tensor
    moves: Tensor

    def __init__(self, levels: Tensor) -> None:
        super().__init__()
        self.register_buffer("levels", levels.detach().clone())
        self.register_buffer("moves", levels.detach() != 0)

    def forward(self, x: Tensor) -> Tensor:
        labels = self.labels(x)
        out = straight_through(x, self.levels[labels])
        # Only weights that are trained pull at the levels, not those that are merely looked at.
        if self.training and torch.is_grad_enabled() and x.requires_grad:
            self.follow(x, labels)
        return out

    @torch.no_grad()
    def labels(self, x: Tensor) -> Tensor:
        """The position of each value's nearest level, in the shape of ``x``."""
        middles = (self.levels[1:] + self.levels[:-1]) / 2
        return torch.bucketize(x.detach().contiguous(), middles)

    @torch.no_grad()
    def follow(self, x: Tensor, labels: Tensor) -> None:
        """Stage 2 for one step: levels move towards the mean of their weights."""
        count = len(self.levels)
        used = torch.bincount(labels.flatten(), minlength=count) > 0
        moved = self.levels.lerp(cluster_means(x, labels, count), 1 - MOMENTUM)
        self.levels = torch.where(used & self.moves, moved, self.levels)

    def codes(self, x: Tensor) -> Codes:
        return Codes.of_codebook(self.labels(x).to(x.dtype), self.levels)
