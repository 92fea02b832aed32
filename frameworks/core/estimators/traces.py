"""Traces of the diagonal blocks of the Hessian, of all layers in one pass.

The trace splits into that of the Gauss-Newton part, which `gauss_newton` gives from ordinary
backward passes (exactly, where there are no more classes than passes), and that of the residual
R = sum_c (p - y)_c d^2 f_c / dv^2, to which Hutchinson's estimator is applied alone:

    Tr(H) = Tr(J^T H_l J) + E[z^T R z].

The estimate has the same mean as Hutchinson's on H (HAWQ-V2, arXiv 1911.03852) and less variance.
In a network whose only nonlinearities are piecewise linear (ReLU, max pooling), R is zero for a
layer's weights and inputs; a first product shows that, and the traces are exact.

For weights, R is probed where they act: a layer y = W a that is called once has
z^T R_W z = u^T R_y u with u = Z a, of the residual R_y over its output. The signs of z differ
between images (output and input channels are multiplied by an image's own signs, which leaves each
z uniform on {-1, 1}), so that images average noise away, the terms between layers included; and no
product needs a gradient of weights. Layers that are called several times, share their weight or
compute with it in another way have Hutchinson's estimator on H by a product of their own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from frameworks.core.estimators.gauss_newton import GaussNewton, gauss_newton, plain
from frameworks.core.estimators.hessian import (
    ActivationHessian,
    Graph,
    Hessian,
    Vectors,
    WeightHessian,
    rademacher,
)
from frameworks.core.estimators.hutchinson import Trace, hutchinson
from frameworks.core.estimators.taps import tapped
from frameworks.core.split import Batch
from frameworks.core.train import Loss

IMAGES = 32
"""Images of one graph for second derivatives."""


@dataclass(frozen=True)
class Traces:
    """Traces by layer, over its weights and over its input activations (of one image)."""

    weights: dict[str, Trace]
    inputs: dict[str, Trace]


def layer_traces(
    model: nn.Module,
    batches: Sequence[Batch],
    generator: torch.Generator,
    *,
    weights: Sequence[str] = (),
    inputs: Sequence[str] = (),
    max_probes: int = 50,
    min_probes: int = 10,
    tolerance: float = 1e-3,
) -> Traces:
    """The traces of the mean cross-entropy's Hessian, inside `twice_differentiable`.

    Args:
        model: a float network that gives logits.
        batches: images and labels.
        generator: draws probes.
        weights: layers whose weights count, one block each.
        inputs: layers whose input activations count, one block each.
        max_probes: at most this many products (or backward passes) per part and batch.
        min_probes: see `hutchinson`.
        tolerance: see `hutchinson`.
    """
    rule = Rule(max_probes, min_probes, tolerance)
    simple = _simple(model, batches[0][0], weights)
    outputs, activations = gauss_newton(
        model, batches, generator, weights=simple, inputs=inputs, passes=max(max_probes, 2)
    )
    few = list(_split(batches))
    found = rule.complete(OutputHessian, model, few, outputs, generator)
    others = {name: [name] for name in weights if name not in found}
    if others:
        found |= rule.estimate(WeightHessian(model, others, batches), generator)
    return Traces(
        {name: found[name] for name in weights},
        rule.complete(ActivationHessian, model, few, activations, generator),
    )


def _split(batches: Sequence[Batch]) -> Iterator[Batch]:
    """Batches of few images: a graph for second derivatives is several times a training step's."""
    for x, y in batches:
        for start in range(0, len(x), IMAGES):
            yield x[start : start + IMAGES], y[start : start + IMAGES]


@dataclass(frozen=True)
class Rule:
    """When Hutchinson's estimator stops (see `hutchinson`)."""

    max_probes: int
    min_probes: int
    tolerance: float

    def estimate(
        self,
        hessian: Hessian,
        generator: torch.Generator,
        joint: bool = False,
        base: Mapping[str, float] | None = None,
    ) -> dict[str, Trace]:
        """The traces of all blocks."""
        return hutchinson(
            hessian,
            generator,
            max_probes=self.max_probes,
            min_probes=self.min_probes,
            tolerance=self.tolerance,
            joint=joint,
            base=base,
        )

    def complete(
        self,
        kind: type[OutputHessian] | type[ActivationHessian],
        model: nn.Module,
        batches: Sequence[Batch],
        parts: Mapping[str, GaussNewton],
        generator: torch.Generator,
    ) -> dict[str, Trace]:
        """Add the residual's traces to those of the Gauss-Newton part."""
        if not parts:
            return {}
        rest = kind(model, list(parts), batches, residual)
        if _vanishes(rest, generator):
            return {name: _exact(part) for name, part in parts.items()}
        base = {name: part.value for name, part in parts.items()}
        traces = self.estimate(rest, generator, joint=True, base=base)
        return {name: _sum(traces[name], part) for name, part in parts.items()}


def residual(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """A loss whose Hessian is that of mean cross-entropy without its Gauss-Newton part."""
    logits: Tensor = model(x)
    pull = logits.detach().softmax(1) - functional.one_hot(y, logits.shape[1])
    return (pull.to(logits.dtype) * logits).sum() / len(x)


class OutputHessian(Hessian):
    """Second derivatives with respect to layers' outputs; probes are what weights do to them.

    Args:
        names: layers for which `plain` holds and that are called once.
    """

    per_image = True

    def __init__(
        self, model: nn.Module, names: Sequence[str], batches: Sequence[Batch], loss: Loss
    ) -> None:
        super().__init__(model, batches, loss)
        self.names = tuple(names)
        self._reads: dict[str, list[Tensor]] = {}

    def _forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Vectors]:
        with tapped(self.model, outputs=self.names) as taps:
            loss = self.loss(self.model, x, y.to(x.device))
        self._reads = dict(taps.reads)
        return loss, dict(taps.outputs)

    def size(self, name: str, tensors: Sequence[Tensor], images: int) -> int:
        return self.model.get_submodule(name).get_parameter("weight").numel()

    @torch.no_grad()
    def draw(self, graph: Graph, name: str, generator: torch.Generator) -> list[Tensor]:
        """``Z a`` for a Z of -1 and 1 that differs between images, as ``[B, O, ...]``."""
        module = self.model.get_submodule(name)
        (read,) = self._reads[name]
        weight = module.get_parameter("weight")
        drawn = rademacher(weight, generator)
        inward = _signs(module, read, generator)
        if isinstance(module, nn.Linear):
            moved = functional.linear(read * inward, drawn)
        else:
            assert isinstance(module, nn.Conv1d | nn.Conv2d)
            moved = module._conv_forward(read * inward, drawn, None)
        return [moved * _signs(module, moved, generator)]


def _signs(module: nn.Module, like: Tensor, generator: torch.Generator) -> Tensor:
    """A sign for each image and channel, in a shape that multiplies ``like``."""
    channel = like.dim() - 1 if isinstance(module, nn.Linear) else 1
    shape = [n if axis in (0, channel) else 1 for axis, n in enumerate(like.shape)]
    return rademacher(like.new_empty(shape), generator)


@torch.no_grad()
def _simple(model: nn.Module, x: Tensor, names: Sequence[str]) -> list[str]:
    """The layers that are called once, and whose output is linear in a weight of their own."""
    candidates = [name for name in names if plain(model, name)]
    parameter = next(model.parameters())
    with tapped(model, outputs=candidates) as taps:
        model(x[:1].to(parameter.device, parameter.dtype))
    return [name for name in candidates if len(taps.outputs[name]) == 1]


def _vanishes(hessian: Hessian, generator: torch.Generator) -> bool:
    """Whether a product with a random vector is exactly zero for every batch."""
    for graph in hessian.graphs():
        probe = {name: hessian.draw(graph, name, generator) for name in graph.variables}
        if any(bool(part.any()) for parts in graph.product(probe).values() for part in parts):
            return False
    return True


def _exact(part: GaussNewton) -> Trace:
    return Trace(part.value, part.error, part.size, part.passes, converged=True)


def _sum(trace: Trace, part: GaussNewton) -> Trace:
    error = math.hypot(trace.error, part.error)
    return Trace(trace.value, error, trace.size, trace.probes, trace.converged)
