"""Hessian-vector products by reverse-over-reverse differentiation, for all layers from one graph.

For a loss that is a mean over images, ``g = dL/dv`` is computed once per batch with its graph
kept, and each product is one more backward pass, ``Hz = d(g . z)/dv``. A product with a vector over
all variables gives ``(Hz)_i = sum_j H_ij z_j``; a product with one variable's vector alone, taken
with respect to that variable only, gives its diagonal block ``H_ii z_i``.

A batch whose graph would take too much memory goes through the network in portions. Their shares
add up to the batch's, as images do not mix, and their probes are the batch's.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor, nn

from frameworks.core.estimators.derivatives import gradients, gradients_to_differentiate
from frameworks.core.estimators.layouts import Layout
from frameworks.core.estimators.live import BOUND, fitting
from frameworks.core.estimators.signs import Signs, rademacher, stacked
from frameworks.core.estimators.taps import tapped
from frameworks.core.evaluation.train import Loss, cross_entropy
from frameworks.core.split import Batch

Vectors = Mapping[str, Sequence[Tensor]]
"""Name of a variable (a layer, a block) to the tensors that it is made of."""


@dataclass(frozen=True)
class Portion:
    """Images that go through the network together.

    Attributes:
        batch: number of the batch that they are of; the batch's probes are theirs.
        first: number of the first one among all images.
        count: how many.
    """

    batch: int
    first: int
    count: int

    @property
    def images(self) -> range:
        """Their numbers among all images."""
        return range(self.first, self.first + self.count)


@dataclass(frozen=True)
class Graph:
    """The gradient of a portion's mean loss, with its graph.

    Attributes:
        portion: the images.
        share: the portion's share of all images.
        variables: what is differentiated.
        gradients: dL/dv, same structure.
        sizes: how many numbers a variable has (activations: for one image).
    """

    portion: Portion
    share: float
    variables: Vectors
    gradients: Vectors
    sizes: Mapping[str, int]

    def product(self, vectors: Vectors) -> dict[str, list[Tensor]]:
        """The Hessian times vectors, within the variables that they name.

        Variables left out count as constants: a single name gives its diagonal block's product.

        Raises:
            ValueError: an operation of the network has no second derivative.
        """
        inputs = [v for name in vectors for v in self.variables[name]]
        outputs = [g for name in vectors for g in self.gradients[name]]
        flat = iter(gradients(outputs, inputs, [z for name in vectors for z in vectors[name]]))
        return {name: [next(flat).detach() for _ in self.variables[name]] for name in vectors}


class Hessian(ABC):
    """The Hessian of the mean loss over some batches.

    Make and use it inside `frameworks.twice_differentiable`, which also gives the parameters their
    ``requires_grad`` back.

    Args:
        model: a float network.
        batches: images and labels, kept in memory. Each has probes of its own.
        loss: the mean loss of a batch.
        most: at most this many images go through the network together; None for a batch.
        bound: bytes that a graph and a product take at most, if one image needs no more.
    """

    per_image: ClassVar[bool] = False
    """Whether the variables have a part for each image of a batch."""

    def __init__(
        self,
        model: nn.Module,
        batches: Sequence[Batch],
        loss: Loss = cross_entropy,
        *,
        most: int | None = None,
        bound: int = BOUND,
    ) -> None:
        if not batches:
            raise ValueError("a Hessian needs at least one batch of images")
        model.requires_grad_(False)
        self.model, self.batches, self.loss = model, list(batches), loss
        self.images = sum(len(x) for x, _ in self.batches)
        self.most, self.bound = most, bound
        self._only: Graph | None = None

    def graphs(self) -> Iterator[Graph]:
        """The portions' gradients; one graph is alive at a time, and a single one is kept."""
        portions = self._portions
        if len(portions) == 1:
            self._only = self._only or self._graph(portions[0])
            yield self._only
            return
        for portion in portions:
            yield self._graph(portion)  # not kept here while the next one is made

    @cached_property
    def _portions(self) -> list[Portion]:
        found, first = [], 0
        for batch, (x, _) in enumerate(self.batches):
            for start in range(0, len(x), self._together):
                found.append(Portion(batch, first + start, min(self._together, len(x) - start)))
            first += len(x)
        return found

    @cached_property
    def _together(self) -> int:
        """How many images go through the network together."""
        sizes = [len(x) for x, _ in self.batches]
        largest = min(max(sizes), self.most or self.images)
        if largest == 1:
            return 1
        batch = sizes.index(max(sizes))
        first, signs = sum(sizes[:batch]), Signs(torch.Generator().manual_seed(0))

        def work(count: int) -> None:
            graph = self._graph(Portion(batch, first, count))
            graph.product(self.draw(graph, list(graph.variables), signs, 0))

        return fitting(work, largest, self.bound) or 1

    def _graph(self, portion: Portion) -> Graph:
        parameter = next(self.model.parameters())
        start = portion.first - sum(len(x) for x, _ in self.batches[: portion.batch])
        x, y = (part[start : start + portion.count] for part in self.batches[portion.batch])
        loss, variables = self._forward(x.to(parameter.device, parameter.dtype), y)
        flat = [v for tensors in variables.values() for v in tensors]
        found = iter(gradients_to_differentiate(loss, flat))
        return Graph(
            portion,
            len(x) / self.images,
            variables,
            {name: [next(found) for _ in tensors] for name, tensors in variables.items()},
            {name: self.size(name, tensors, len(x)) for name, tensors in variables.items()},
        )

    def size(self, name: str, tensors: Sequence[Tensor], images: int) -> int:
        """How many numbers a variable has, given its tensors for so many images."""
        return sum(v.numel() for v in tensors) // (images if self.per_image else 1)

    def draw(
        self, graph: Graph, names: Sequence[str], signs: Signs, probe: int
    ) -> dict[str, list[Tensor]]:
        """A probe for some variables: uniform on {-1, 1}."""
        found = {}
        for name in names:
            generator = signs.at(graph.portion.batch, probe, name)
            found[name] = [rademacher(v, generator) for v in graph.variables[name]]
        return found

    @abstractmethod
    def _forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Vectors]:
        """The loss of some images and the variables behind it."""


class WeightHessian(Hessian):
    """Second derivatives with respect to weights (not biases), by layer or by block of layers.

    Args:
        groups: name of a variable to the names of the layers whose weights it holds.
        options: those of `Hessian`.
    """

    def __init__(
        self,
        model: nn.Module,
        groups: Mapping[str, Sequence[str]],
        batches: Sequence[Batch],
        loss: Loss = cross_entropy,
        **options: int | None,
    ) -> None:
        super().__init__(model, batches, loss, **options)  # type: ignore[arg-type]
        self.weights = {
            group: [model.get_submodule(n).get_parameter("weight").requires_grad_() for n in names]
            for group, names in groups.items()
        }

    def _forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Vectors]:
        return self.loss(self.model, x, y.to(x.device)), self.weights


class ActivationHessian(Hessian):
    """Second derivatives with respect to each layer's own input activations ``[B, ...]``.

    Without BatchNorm's batch statistics the images do not mix, so that the Hessian of the mean loss
    is block diagonal with blocks ``H_a(x_k) / B``, and its trace is the mean over images of
    ``Tr(H_a(x_k))`` (HAWQ-V2, arXiv 1911.03852). Each layer gets a copy of its input, so that a
    tensor which several layers read is perturbed for one of them only.

    Args:
        calls: the layers, each with the layout of the input of each call.
        options: those of `Hessian`.
    """

    per_image = True

    def __init__(
        self,
        model: nn.Module,
        calls: Mapping[str, Sequence[Layout]],
        batches: Sequence[Batch],
        loss: Loss = cross_entropy,
        **options: int | None,
    ) -> None:
        super().__init__(model, batches, loss, **options)  # type: ignore[arg-type]
        self.calls = calls

    def _forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Vectors]:
        with tapped(self.model, inputs=tuple(self.calls)) as taps:
            return self.loss(self.model, x, y.to(x.device)), taps.inputs

    def draw(
        self, graph: Graph, names: Sequence[str], signs: Signs, probe: int
    ) -> dict[str, list[Tensor]]:
        """A probe for some variables; each image has its own."""
        each = [signs.at("image", image, probe) for image in graph.portion.images]
        found: dict[str, list[Tensor]] = {}
        for name in names:
            found[name] = []
            for v, layout in zip(graph.variables[name], self.calls[name], strict=True):
                shape = layout.apart(v).shape[1:]
                found[name].append(layout.together(stacked(shape, v, each)))
        return found
