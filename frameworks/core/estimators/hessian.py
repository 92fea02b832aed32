"""Hessian-vector products by reverse-over-reverse differentiation, for all layers from one graph.

For a loss that is a mean over images, ``g = dL/dv`` is computed once per batch with its graph
kept, and each product is one more backward pass, ``Hz = d(g . z)/dv``. A product with a vector over
all variables gives ``(Hz)_i = sum_j H_ij z_j``; a product with one variable's vector alone, taken
with respect to that variable only, gives its diagonal block ``H_ii z_i``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from frameworks.core.estimators.taps import tapped
from frameworks.core.split import Batch
from frameworks.core.train import Loss, cross_entropy

Vectors = Mapping[str, Sequence[Tensor]]
"""Name of a variable (a layer, a block) to the tensors that it is made of."""


class _HardSigmoids(TorchFunctionMode):
    """Composes hard sigmoids, the one common activation without a second derivative in torch."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is functional.hardsigmoid:
            return functional.relu6(args[0] + 3) / 6
        return func(*args, **(kwargs or {}))


@contextmanager
def twice_differentiable(model: nn.Module) -> Iterator[None]:
    """Make a model's loss twice differentiable and its Hessian deterministic, and undo it after.

    Eval mode (BatchNorm by running statistics), no in-place activations, attention by plain matrix
    products (the fused kernels have no second derivative), composed hard sigmoids, full float32 on
    a GPU.

    Raises:
        ValueError: the model is not in float32 or float64.
    """
    odd = {p.dtype for p in model.parameters()} - {torch.float32, torch.float64}
    if odd:
        raise ValueError(f"second derivatives need float32 weights, not {sorted(map(str, odd))}")
    modes = {module: module.training for module in model.modules()}
    trained = {parameter: parameter.requires_grad for parameter in model.parameters()}
    inplace = [m for m in model.modules() if getattr(m, "inplace", False) is True]
    with ExitStack() as stack:
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        stack.enter_context(_HardSigmoids())
        stack.enter_context(torch.enable_grad())
        stack.enter_context(torch.autocast("cuda", enabled=False))
        if torch.cuda.is_available():
            stack.enter_context(torch.backends.cudnn.flags(enabled=True, allow_tf32=False))
        try:
            model.eval()
            for module in inplace:
                module.inplace = False  # type: ignore[assignment]
            yield
        finally:
            for module in inplace:
                module.inplace = True  # type: ignore[assignment]
            for module, mode in modes.items():
                module.training = mode
            for parameter, mode in trained.items():
                parameter.requires_grad_(mode)


@dataclass(frozen=True)
class Graph:
    """The gradient of one batch's mean loss, with its graph.

    Attributes:
        share: the batch's share of all images.
        variables: what is differentiated.
        gradients: dL/dv, same structure.
        sizes: how many numbers a variable has (activations: for one image).
    """

    share: float
    variables: Vectors
    gradients: Vectors
    sizes: Mapping[str, int]

    def product(self, vectors: Vectors) -> dict[str, list[Tensor]]:
        """The Hessian times vectors, within the variables that they name.

        Variables left out count as constants: a single name gives its diagonal block's product.
        """
        inputs = [v for name in vectors for v in self.variables[name]]
        pairs = [
            (g, z)
            for name in vectors
            for g, z in zip(self.gradients[name], vectors[name], strict=True)
            if g.requires_grad  # else the loss is linear in it
        ]
        if not pairs:
            return {name: [torch.zeros_like(z) for z in vectors[name]] for name in vectors}
        outputs, weights = zip(*pairs, strict=True)
        flat = iter(
            torch.autograd.grad(
                outputs, inputs, weights, retain_graph=True, allow_unused=True,
                materialize_grads=True,
            )
        )  # fmt: skip
        return {name: [next(flat).detach() for _ in self.variables[name]] for name in vectors}


def rademacher(like: Tensor, generator: torch.Generator) -> Tensor:
    """A tensor of -1 and 1 of the same shape; the draw does not depend on the device."""
    signs = torch.randint(0, 2, like.shape, generator=generator)
    return (2 * signs - 1).to(like.device, like.dtype)


class Hessian(ABC):
    """The Hessian of the mean loss over some batches.

    Make and use it inside `twice_differentiable`, which also gives the parameters their
    ``requires_grad`` back.

    Args:
        model: a float network.
        batches: images and labels, kept in memory.
        loss: the mean loss of a batch.
    """

    per_image: ClassVar[bool] = False
    """Whether the variables have a part for each image of a batch."""

    def __init__(
        self, model: nn.Module, batches: Sequence[Batch], loss: Loss = cross_entropy
    ) -> None:
        if not batches:
            raise ValueError("a Hessian needs at least one batch of images")
        model.requires_grad_(False)
        self.model, self.batches, self.loss = model, list(batches), loss
        self.images = sum(len(x) for x, _ in self.batches)
        self._only: Graph | None = None

    def graphs(self) -> Iterator[Graph]:
        """The batches' gradients; one graph is alive at a time, and a single one is kept."""
        if len(self.batches) == 1:
            self._only = self._only or self._graph(*self.batches[0])
            yield self._only
            return
        for x, y in self.batches:
            yield self._graph(x, y)

    def _graph(self, x: Tensor, y: Tensor) -> Graph:
        parameter = next(self.model.parameters())
        loss, variables = self._forward(x.to(parameter.device, parameter.dtype), y)
        flat = [v for tensors in variables.values() for v in tensors]
        gradients = iter(
            torch.autograd.grad(
                loss, flat, create_graph=True, allow_unused=True, materialize_grads=True
            )
            if flat
            else ()
        )
        return Graph(
            len(x) / self.images,
            variables,
            {name: [next(gradients) for _ in tensors] for name, tensors in variables.items()},
            {name: self.size(name, tensors, len(x)) for name, tensors in variables.items()},
        )

    def size(self, name: str, tensors: Sequence[Tensor], images: int) -> int:
        """How many numbers a variable has, given its tensors for a batch of so many images."""
        return sum(v.numel() for v in tensors) // (images if self.per_image else 1)

    def draw(self, graph: Graph, name: str, generator: torch.Generator) -> list[Tensor]:
        """A probe for one variable: uniform on {-1, 1}."""
        return [rademacher(v, generator) for v in graph.variables[name]]

    @abstractmethod
    def _forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Vectors]:
        """The loss of a batch and the variables behind it."""


class WeightHessian(Hessian):
    """Second derivatives with respect to weights (not biases), by layer or by block of layers.

    Args:
        groups: name of a variable to the names of the layers whose weights it holds.
    """

    def __init__(
        self,
        model: nn.Module,
        groups: Mapping[str, Sequence[str]],
        batches: Sequence[Batch],
        loss: Loss = cross_entropy,
    ) -> None:
        super().__init__(model, batches, loss)
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
        names: the layers.
    """

    per_image = True

    def __init__(
        self,
        model: nn.Module,
        names: Sequence[str],
        batches: Sequence[Batch],
        loss: Loss = cross_entropy,
    ) -> None:
        super().__init__(model, batches, loss)
        self.names = tuple(names)

    def _forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Vectors]:
        with tapped(self.model, inputs=self.names) as taps:
            return self.loss(self.model, x, y.to(x.device)), taps.inputs
