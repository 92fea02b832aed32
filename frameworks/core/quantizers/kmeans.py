"""HAQ's k-means codebooks.

Wang et al., "HAQ: Hardware-Aware Automated Quantization with Mixed Precision", arXiv 1811.08886,
section 4.4 (size-constrained), after Han et al., "Deep Compression", arXiv 1510.00149: the weights
of a layer are clustered to 2^b centroids (k-means++ start, at most 50 iterations) and activations
stay float. In fine-tuning the labels stay and after each step every weight becomes the mean of its
cluster:

    w_i <- (1/|C_k|) sum_{j in C_k} w_j       for i in C_k

The quantizer computes these means in its forward pass and lets the gradient straight through to
each weight. As the mean is linear, this equals replacing the weights after each step of SGD, with
or without momentum and weight decay; `cluster_means` does the replacement itself.

Values on a line need no distance matrix: sorted once, clusters are intervals, and prefix sums give
their means and errors. The start is drawn from a generator of a fixed axis, so that equal weights
give equal codebooks. The released code stops after 3 iterations in the search; as quantized weights
are kept per layer and bits, that saves nothing here. Codebooks of more than 2^8 entries start from
quantiles.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from frameworks.core.quantizers.base import Codes, Float, Quantizer, Scheme, straight_through
from frameworks.core.randomness import numpy_rng
from frameworks.core.registry import register_scheme

Array = npt.NDArray[np.float64]
Places = npt.NDArray[np.int64]
ITERATIONS = 50
LARGEST_DRAWN = 256


class _Line:
    """Sorted values with prefix sums: sums and squared errors of intervals in constant time."""

    def __init__(self, values: Array) -> None:
        self.values = np.sort(values)
        # Shifted to their mean, so that the differences below lose no digits.
        self.shift = float(self.values.mean())
        centred = self.values - self.shift
        self.first = np.concatenate([[0.0], np.cumsum(centred)])
        self.second = np.concatenate([[0.0], np.cumsum(centred**2)])

    def bounds(self, centroids: Array) -> Places:
        """First position of each centroid's interval, and the end ``[k + 1]``."""
        middles = (centroids[1:] + centroids[:-1]) / 2
        inner = np.searchsorted(self.values, middles, side="right")
        return np.concatenate([[0], inner, [len(self.values)]]).astype(np.int64)

    def errors(self, centroids: Array) -> Array:
        """Squared error of each centroid's interval ``[k]``."""
        bounds, c = self.bounds(centroids), centroids - self.shift
        first, second = np.diff(self.first[bounds]), np.diff(self.second[bounds])
        return np.maximum(second - 2 * c * first + c**2 * np.diff(bounds), 0.0)

    def means(self, centroids: Array) -> Array:
        """Mean of each centroid's interval; an empty one keeps its centroid."""
        bounds = self.bounds(centroids)
        counts = np.diff(bounds)
        sums = np.diff(self.first[bounds])
        means = sums / np.maximum(counts, 1) + self.shift
        return np.sort(np.where(counts > 0, means, centroids))


def plus_plus(line: _Line, k: int, rng: np.random.Generator) -> Array:
    """The k-means++ start: each next centroid with probability proportional to its squared error.

    Stops early when every value is a centroid.
    """
    centroids = np.array([line.values[rng.integers(len(line.values))]])
    while len(centroids) < k:
        errors = line.errors(centroids)
        if errors.sum() <= 0:
            break
        at = int(rng.choice(len(errors), p=errors / errors.sum()))
        start, stop = line.bounds(centroids)[at : at + 2]
        squares = np.cumsum((line.values[start:stop] - centroids[at]) ** 2)
        if squares[-1] <= 0:
            break
        place = min(int(np.searchsorted(squares, rng.random() * squares[-1], side="right")),
                    len(squares) - 1)  # fmt: skip
        centroids = np.sort(np.append(centroids, line.values[start + place]))
    return centroids


def kmeans(values: Array, k: int, rng: np.random.Generator, iterations: int = ITERATIONS) -> Array:
    """Lloyd's algorithm on a line: at most k sorted, different centroids.

    Args:
        values: data ``[n]``.
        k: number of centroids.
        rng: draws the start.
        iterations: at most so many; fewer when nothing moves any more.
    """
    distinct = np.unique(values)
    if len(distinct) <= k:
        return distinct
    line = _Line(values)
    if k > LARGEST_DRAWN:
        centroids = np.unique(np.quantile(values, (np.arange(k) + 0.5) / k))
    else:
        centroids = plus_plus(line, k, rng)
    for _ in range(iterations):
        moved = line.means(centroids)
        if np.array_equal(moved, centroids):
            break
        centroids = moved
    return np.unique(centroids)


def cluster_means(weight: Tensor, labels: Tensor, k: int) -> Tensor:
    """The mean weight of each cluster ``[k]``; 0 for a cluster without members."""
    flat, index = weight.detach().double().flatten(), labels.flatten()
    sums = torch.zeros(k, dtype=flat.dtype, device=flat.device).index_add_(0, index, flat)
    counts = torch.bincount(index, minlength=k).clamp_min(1)
    return (sums / counts).to(weight.dtype)


class KMeansWeight(Quantizer):
    """A codebook with labels fixed at calibration; its entries follow the weights' means.

    Args:
        labels: position in the codebook of each weight, in the weight's shape.
        levels: size of the codebook.
    """

    labels: Tensor

    def __init__(self, labels: Tensor, levels: int) -> None:
        super().__init__()
        self.register_buffer("labels", labels)
        self.levels = levels

    def codebook(self, x: Tensor) -> Tensor:
        """The centroids of a weight tensor ``[levels]``."""
        return cluster_means(x, self.labels, self.levels)

    def forward(self, x: Tensor) -> Tensor:
        return straight_through(x, self.codebook(x)[self.labels])

    def codes(self, x: Tensor) -> Codes:
        return Codes.of_codebook(self.labels.to(x.dtype), self.codebook(x))

    @torch.no_grad()
    def replace(self, weight: Tensor) -> None:
        """Replace weights in place by their cluster's mean, as HAQ does after each step."""
        weight.copy_(self.codebook(weight)[self.labels])


@register_scheme
class HaqKMeans(Scheme):
    """Weights in a codebook of at most 2^b entries per layer, activations float."""

    name: ClassVar[str] = "haq_kmeans"
    iterations: ClassVar[int] = ITERATIONS

    def weight_quantizer(self, weight: Tensor, bits: int) -> Quantizer:
        values = weight.detach().double().flatten().cpu().numpy()
        centroids = kmeans(values, 2**bits, numpy_rng(0, "kmeans"), self.iterations)
        middles = (centroids[1:] + centroids[:-1]) / 2
        # A value on a middle belongs to the lower centroid, as in the sums above.
        labels = np.searchsorted(middles, values, side="left")
        used, labels = np.unique(labels, return_inverse=True)
        placed = torch.from_numpy(labels).view(weight.shape).to(weight.device)
        return KMeansWeight(placed, len(used))

    def activation_quantizer(self, sample: Tensor, bits: int) -> Quantizer:
        return Float()
