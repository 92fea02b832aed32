"""Exact traces of the Gauss-Newton part of every layer's Hessian, by first derivatives alone.

For logits f(x) and cross-entropy l, the Hessian over any variable v splits (Schraudolph 2002) into

    H = J^T H_l J + R,    H_l = diag(p) - p p^T = S S^T,    S = diag(q) - p q^T,  q = sqrt(p),

with J = df/dv, p = softmax(f) and the residual R = sum_c (p - y)_c d^2 f_c / dv^2. So, with s_c the
columns of S, the trace of the first part over a layer's weights or inputs is

    Tr(J^T H_l J) = sum_c ||J^T s_c||^2 :

one ordinary backward pass for each class serves all layers at once, with no cross terms between
layers and no noise. Images do not mix (BatchNorm by running statistics), so that each image has its
own term, and the mean over images is the trace for the mean loss. Where there are more classes than
passes, half of the passes go to each image's most probable classes, and the rest draw r uniform on
{-1, 1} over the other classes: E||J^T sum_c r_c s_c||^2 = sum_c ||J^T s_c||^2.

Weights need the norm of each image's own gradient (`gradient_norms`). How many images go together
is for the memory to say; the value does not depend on it.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice

import torch
from torch import Tensor, nn

from frameworks.core.estimators.derivatives import gradients
from frameworks.core.estimators.gradient_norms import gradient_norms
from frameworks.core.estimators.layouts import Layout
from frameworks.core.estimators.live import BOUND, fitting
from frameworks.core.estimators.signs import Signs, stacked
from frameworks.core.estimators.taps import Taps, tapped
from frameworks.core.split import Batch

IMAGES = 16
"""Images that go through the network together: a few, whose gradients stay in the cache."""
GROUP = 8
"""Passes whose output gradients are kept, so that a layer's patches are unfolded once for them."""


@dataclass(frozen=True)
class GaussNewton:
    """The trace of the Gauss-Newton part for one variable.

    Attributes:
        value: the trace for the mean loss.
        error: its standard error; 0 where every class had a pass of its own.
        size: the variable's dimension (of inputs: for one image).
        passes: backward passes.
    """

    value: float
    error: float
    size: int
    passes: int


def gauss_newton(
    model: nn.Module,
    batches: Sequence[Batch],
    generator: torch.Generator,
    *,
    weights: Mapping[str, Layout] | None = None,
    inputs: Sequence[str] = (),
    passes: int = 50,
    most: int = IMAGES,
    bound: int = BOUND,
) -> tuple[dict[str, GaussNewton], dict[str, GaussNewton]]:
    """The traces over layers' weights and over layers' inputs, for the mean cross-entropy.

    Works inside `frameworks.twice_differentiable`.

    Args:
        model: a network that gives logits ``[B, C]``.
        batches: images and labels.
        generator: draws signs where there are more classes than passes.
        weights: layers that `frameworks.core.estimators.layouts.layouts` gives, and where their
            images are.
        inputs: any layers that are called.
        passes: at most this many backward passes (at least 2).
        most: at most this many images go together.
        bound: bytes that a portion of images takes at most, if one image needs no more.
    """
    weights = weights or {}
    if not weights and not inputs:
        return {}, {}
    model.requires_grad_(False)
    signs = Signs(generator)
    rows: dict[tuple[str, str], list[float]] = defaultdict(lambda: [0.0] * passes)
    sizes: dict[str, int] = {}
    images, exact, used, first = sum(len(x) for x, _ in batches), 0, 0, 0
    with tapped(model, inputs=inputs, outputs=tuple(weights)) as taps:
        work = partial(_once, model, taps, weights, max((x for x, _ in batches), key=len))
        group = fitting(lambda n: work(1, n), min(GROUP, passes), bound) or 1
        most = fitting(lambda n: work(n, group), min(most, images), bound) or 1
        for x in _portions(batches, most):
            taps.clear()
            logits = _logits(model, x)
            exact, used = _plan(logits.shape[1], passes)
            each = [signs.at(image) for image in range(first, first + len(x))]
            drawn = stacked((used - exact, logits.shape[1]), logits, each)
            done = 0
            for vectors in _grouped(columns(logits.detach().softmax(1), exact, drawn), group):
                for key, values in _norms(model, taps, weights, logits, vectors).items():
                    for i, value in enumerate(values):
                        rows[key][done + i] += value / images
                done += len(vectors)
            sizes = {n: sum(t.numel() for t in ts) // len(x) for n, ts in taps.inputs.items()}
            first += len(x)
            del logits  # before the next portion's graph is made
    return (
        {
            name: _summary(rows["weight", name][:used], exact, _weight(model, name).numel())
            for name in weights
        },
        {name: _summary(rows["input", name][:used], exact, sizes[name]) for name in inputs},
    )


def _weight(model: nn.Module, name: str) -> nn.Parameter:
    return model.get_submodule(name).get_parameter("weight")


def _logits(model: nn.Module, x: Tensor) -> Tensor:
    like = next(model.parameters())
    found: Tensor = model(x.to(like.device, like.dtype))
    return found


def _once(
    model: nn.Module,
    taps: Taps,
    layouts: Mapping[str, Layout],
    x: Tensor,
    images: int,
    vectors: int,
) -> None:
    """What is done with one portion of images and one group of vectors."""
    taps.clear()
    logits = _logits(model, x[:images])
    _norms(model, taps, layouts, logits, [torch.ones_like(logits)] * vectors)
    taps.clear()


def columns(p: Tensor, exact: int, drawn: Tensor) -> Iterator[Tensor]:
    """Vectors ``[B, C]`` whose summed squares through J give the trace.

    First those of each image's ``exact`` most probable classes, then sign mixtures of the others,
    whose squares are to be averaged.

    Args:
        p: probabilities ``[B, C]``.
        exact: how many classes have a vector of their own.
        drawn: signs of the mixtures ``[B, mixtures, C]``.
    """
    q, order = p.sqrt(), p.argsort(dim=1, descending=True, stable=True)
    own = (torch.zeros_like(p).scatter_(1, order[:, i : i + 1], 1.0) for i in range(exact))
    mixed = (signs.scatter(1, order[:, :exact], 0.0) for signs in drawn.unbind(1))
    for weight in chain(own, mixed):
        weight = weight * q
        yield weight - p * (weight * torch.ones_like(p)).sum(1, keepdim=True)


def _portions(batches: Sequence[Batch], most: int) -> Iterator[Tensor]:
    """The images, a few at a time."""
    for x, _ in batches:
        for start in range(0, len(x), most):
            yield x[start : start + most]


def _plan(classes: int, passes: int) -> tuple[int, int]:
    """How many classes have a pass of their own, and how many passes there are."""
    return (classes, classes) if classes <= passes else (passes // 2, passes)


def _grouped(vectors: Iterator[Tensor], size: int) -> Iterator[list[Tensor]]:
    while group := list(islice(vectors, size)):
        yield group


def _norms(
    model: nn.Module,
    taps: Taps,
    layouts: Mapping[str, Layout],
    logits: Tensor,
    vectors: Sequence[Tensor],
) -> dict[tuple[str, str], list[float]]:
    """``||J^T s||^2`` summed over images, for each layer and vector."""
    inputs = [(n, t) for n, ts in taps.inputs.items() for t in ts]
    outputs = [t for n in layouts for t in taps.outputs[n]]
    norms: dict[tuple[str, str], list[float]] = defaultdict(lambda: [0.0] * len(vectors))
    kept: dict[str, list[Tensor]] = {name: [] for name in layouts}
    for column, vector in enumerate(vectors):
        found = gradients([logits], [*outputs, *(t for _, t in inputs)], [vector])
        for name, gradient in zip(layouts, found, strict=False):
            kept[name].append(gradient)
        for (name, _), gradient in zip(inputs, found[len(outputs) :], strict=True):
            norms["input", name][column] += float(gradient.square().sum(dtype=torch.float64))
    for name, layout in layouts.items():
        (read,) = taps.reads[name]
        values = gradient_norms(model.get_submodule(name), read, kept.pop(name), layout)
        norms["weight", name] = values.tolist()
    return norms


def _summary(row: Sequence[float], exact: int, size: int) -> GaussNewton:
    own, drawn = row[:exact], row[exact:]
    if not drawn:
        return GaussNewton(math.fsum(own), 0.0, size, len(row))
    mean = math.fsum(drawn) / len(drawn)
    spread = math.fsum((value - mean) ** 2 for value in drawn) / max(len(drawn) - 1, 1)
    error = math.sqrt(spread / len(drawn)) if len(drawn) > 1 else math.inf
    return GaussNewton(math.fsum(own) + mean, error, size, len(row))
