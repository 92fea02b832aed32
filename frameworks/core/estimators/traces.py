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
compute with it in another way, and weights that functions read beside a call, have Hutchinson's
estimator on H by a product of their own.

All of these need to know which part of a tensor is which image's: `layouts` sees it, and where it
cannot, images go one at a time. Images go together as far as ``bound`` bytes allow; sums over
images, and signs that each image and probe has of its own, make that no matter for the value.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from frameworks.core.estimators.gauss_newton import IMAGES, GaussNewton, gauss_newton
from frameworks.core.estimators.hessian import (
    ActivationHessian,
    Graph,
    Hessian,
    Vectors,
    WeightHessian,
)
from frameworks.core.estimators.hutchinson import Trace, hutchinson
from frameworks.core.estimators.layouts import Layout, applied, is_linear, layouts
from frameworks.core.estimators.live import BOUND
from frameworks.core.estimators.signs import Signs, rademacher, stacked
from frameworks.core.estimators.taps import tapped
from frameworks.core.evaluation.train import Loss
from frameworks.core.split import Batch

FEW = 32
"""Images of one graph for second derivatives, which is several times a training step's."""


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
    bound: int = BOUND,
) -> Traces:
    """The traces of the mean cross-entropy's Hessian, inside `frameworks.twice_differentiable`.

    Args:
        model: a float network that gives logits, and whose images do not mix.
        batches: images and labels.
        generator: draws probes.
        weights: layers whose weights count, one block each; one that is never called has trace 0.
        inputs: layers whose input activations count, one block each.
        max_probes: at most this many products (or backward passes) per part and batch.
        min_probes: see `hutchinson`.
        tolerance: see `hutchinson`.
        bound: bytes of tensors that are alive at once, if those of one image are no more; weights
            and images are not counted.

    Raises:
        ValueError: an operation of the network has no second derivative, a layer whose input counts
            is never called, or labels are no classes of the network.
    """
    rule = Rule(max_probes, min_probes, tolerance)
    model.requires_grad_(False)
    found = layouts(model, batches[0][0], weights, inputs)
    idle = [name for name, calls in found.inputs.items() if not calls]
    if idle:
        raise ValueError(f"layer {idle[0]} is never called, so that it has no input activations")
    outputs, activations = gauss_newton(
        model,
        batches,
        generator,
        weights=found.weights,
        inputs=inputs,
        passes=max(max_probes, 2),
        most=IMAGES if found.together else 1,
        bound=bound,
    )
    options = {"most": FEW if found.together else 1, "bound": bound}
    of_outputs = partial(OutputHessian, model, found.weights, batches, residual, **options)
    traces = rule.complete(of_outputs, outputs, generator)
    others = {name: [name] for name in weights if name not in traces}
    if others:
        of_weights = WeightHessian(model, others, batches, bound=bound)
        traces |= rule.estimate(of_weights, generator)
    of_inputs = partial(ActivationHessian, model, found.inputs, batches, residual, **options)
    return Traces(
        {name: traces[name] for name in weights},
        rule.complete(of_inputs, activations, generator),
    )


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
        residuals: Callable[[], Hessian],
        parts: Mapping[str, GaussNewton],
        generator: torch.Generator,
    ) -> dict[str, Trace]:
        """Add the residual's traces to those of the Gauss-Newton part."""
        if not parts:
            return {}
        rest = residuals()
        if _vanishes(rest, generator):
            return {name: _exact(part) for name, part in parts.items()}
        base = {name: part.value for name, part in parts.items()}
        traces = self.estimate(rest, generator, joint=True, base=base)
        return {name: _sum(traces[name], part) for name, part in parts.items()}


ROUNDING = 1e-5
"""By how much two passes over the same images may differ in a class's share."""


def residual(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """A loss whose Hessian is that of mean cross-entropy without its Gauss-Newton part.

    Raises:
        ValueError: labels are no classes of the network.
    """
    logits: Tensor = model(x)
    classes = logits.shape[1]
    pull = logits.detach().softmax(1) - _shares(y, classes)
    if y.is_floating_point():
        # Of labels that are the network's own shares nothing is left but rounding.
        pull = pull.where(pull.abs() > ROUNDING, 0)
    return (pull.to(logits.dtype) * logits).sum() / len(x)


def _shares(y: Tensor, classes: int) -> Tensor:
    """Labels as shares of the classes ``[B, classes]``; they may be such already."""
    shares = y.is_floating_point() and y.shape[1:] == (classes,)
    if shares and bool((y >= 0).all() & ((y.sum(1) - 1).abs() < ROUNDING * classes).all()):
        return y
    if y.is_floating_point() or bool(((y < 0) | (y >= classes)).any()):
        raise ValueError(f"labels must be whole numbers from 0 to {classes - 1}, one an image")
    return functional.one_hot(y, classes)


class OutputHessian(Hessian):
    """Second derivatives with respect to layers' outputs; probes are what weights do to them.

    Args:
        layers: layers that `layouts` gives, and where their images are.
        options: those of `Hessian`.
    """

    per_image = True

    def __init__(
        self,
        model: nn.Module,
        layers: Mapping[str, Layout],
        batches: Sequence[Batch],
        loss: Loss,
        **options: int | None,
    ) -> None:
        super().__init__(model, batches, loss, **options)  # type: ignore[arg-type]
        self.layers = layers
        self._reads: dict[str, list[Tensor]] = {}

    def _forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Vectors]:
        self._reads = {}  # those of the portion before
        with tapped(self.model, outputs=tuple(self.layers)) as taps:
            loss = self.loss(self.model, x, y.to(x.device))
        self._reads = dict(taps.reads)
        return loss, dict(taps.outputs)

    def size(self, name: str, tensors: Sequence[Tensor], images: int) -> int:
        return self.model.get_submodule(name).get_parameter("weight").numel()

    @torch.no_grad()
    def draw(
        self, graph: Graph, names: Sequence[str], signs: Signs, probe: int
    ) -> dict[str, list[Tensor]]:
        """``Z a`` for a Z of -1 and 1 that differs between images, as the layer's output."""
        each = [signs.at("image", image, probe) for image in graph.portion.images]
        found = {}
        for name in names:
            module, layout = self.model.get_submodule(name), self.layers[name]
            weight = module.get_parameter("weight")
            drawn = rademacher(weight, signs.at(graph.portion.batch, probe, name))
            (read,) = self._reads[name]
            moved = applied(module, _flipped(module, read, layout, each), drawn)
            found[name] = [_flipped(module, moved, layout, each)]
        return found


def _flipped(
    module: nn.Module, x: Tensor, layout: Layout, generators: Sequence[torch.Generator]
) -> Tensor:
    """What a layer reads or gives, each image and channel with a sign of its own."""
    apart = layout.apart(x)  # [images, rows, channels, ...], or channels last
    channel = apart.dim() - 1 if is_linear(module) else 2
    shape = [n if axis == channel else 1 for axis, n in enumerate(apart.shape)][1:]
    return layout.together(apart * stacked(shape, x, generators))


def _vanishes(hessian: Hessian, generator: torch.Generator) -> bool:
    """Whether a product with a random vector is exactly zero for every batch."""
    signs = Signs(generator)
    for graph in hessian.graphs():
        probe = hessian.draw(graph, list(graph.variables), signs, 0)
        if any(bool(part.any()) for parts in graph.product(probe).values() for part in parts):
            return False
        del graph, probe  # before the next ones are made
    return True


def _exact(part: GaussNewton) -> Trace:
    return Trace(part.value, part.error, part.size, part.passes, converged=True)


def _sum(trace: Trace, part: GaussNewton) -> Trace:
    error = math.hypot(trace.error, part.error)
    return Trace(trace.value, error, trace.size, trace.probes, trace.converged)
