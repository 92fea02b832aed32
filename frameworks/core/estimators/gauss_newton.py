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

Weights need the norm of each image's own gradient, G = D X^T for a layer that reads X ``[I, T]``
(patches of T positions) and whose output has the gradient D ``[O, T]``. It is formed, or, where
that is cheaper, ||G||^2 = sum_tt' (X^T X)_tt' (D^T D)_tt' (as in Rochette et al., 1912.06015).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

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
    weights: Sequence[str] = (),
    inputs: Sequence[str] = (),
    passes: int = 50,
) -> tuple[dict[str, GaussNewton], dict[str, GaussNewton]]:
    """The traces over layers' weights and over layers' inputs, for the mean cross-entropy.

    Works inside `twice_differentiable`.

    Args:
        model: a network that gives logits ``[B, C]``.
        batches: images and labels.
        generator: draws signs where there are more classes than passes.
        weights: layers for which `plain` holds.
        inputs: any layers.
        passes: at most this many backward passes (at least 2).
    """
    if not weights and not inputs:
        return {}, {}
    model.requires_grad_(False)
    like = next(model.parameters())
    rows: dict[tuple[str, str], list[float]] = defaultdict(lambda: [0.0] * passes)
    numels: dict[str, int] = {}
    images, exact, used = sum(len(x) for x, _ in batches), 0, 0
    with tapped(model, inputs=inputs, outputs=weights) as taps:
        for x in _small(batches):
            taps.clear()
            logits = model(x.to(like.device, like.dtype))
            exact, used = _plan(logits.shape[1], passes)
            vectors = columns(logits.detach().softmax(1), exact, used, generator)
            done = 0
            for group in _grouped(vectors):
                for key, values in _norms(model, taps, logits, group).items():
                    for i, value in enumerate(values):
                        rows[key][done + i] += value / images
                done += len(group)
            numels = {n: sum(t[0].numel() for t in ts) for n, ts in taps.inputs.items()}
    return (
        {
            name: _summary(rows["weight", name][:used], exact, _weight(model, name).numel())
            for name in weights
        },
        {name: _summary(rows["input", name][:used], exact, numels[name]) for name in inputs},
    )


def plain(model: nn.Module, name: str) -> bool:
    """Whether a layer's output is linear in a weight that no other module holds."""
    module = model.get_submodule(name)
    forwards = {
        nn.Linear: nn.Linear.forward, nn.Conv1d: nn.Conv1d.forward, nn.Conv2d: nn.Conv2d.forward
    }  # fmt: skip
    known = any(isinstance(module, c) and type(module).forward is f for c, f in forwards.items())
    weight = module._parameters.get("weight")
    holders = sum(any(p is weight for p in m._parameters.values()) for m in model.modules())
    return known and weight is not None and holders == 1


def _weight(model: nn.Module, name: str) -> nn.Parameter:
    return model.get_submodule(name).get_parameter("weight")


def columns(p: Tensor, exact: int, total: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Vectors ``[B, C]`` whose summed squares through J give the trace.

    First those of each image's ``exact`` most probable classes, then sign mixtures of the others,
    whose squares are to be averaged.

    Args:
        p: probabilities ``[B, C]``.
    """
    q, order = p.sqrt(), p.argsort(dim=1, descending=True, stable=True)
    for i in range(total):
        if i < exact:
            weight = torch.zeros_like(p).scatter_(1, order[:, i : i + 1], 1.0)
        else:
            signs = torch.randint(0, 2, p.shape, generator=generator)
            weight = (2 * signs - 1).to(p.device, p.dtype).scatter(1, order[:, :exact], 0.0)
        weight = weight * q
        yield weight - p * (weight * torch.ones_like(p)).sum(1, keepdim=True)


def _small(batches: Sequence[Batch]) -> Iterator[Tensor]:
    """The images, a few at a time."""
    for x, _ in batches:
        for start in range(0, len(x), IMAGES):
            yield x[start : start + IMAGES]


def _plan(classes: int, passes: int) -> tuple[int, int]:
    """How many classes have a pass of their own, and how many passes there are."""
    return (classes, classes) if classes <= passes else (passes // 2, passes)


def _grouped(vectors: Iterator[Tensor]) -> Iterator[list[Tensor]]:
    group: list[Tensor] = []
    for vector in vectors:
        group.append(vector)
        if len(group) == GROUP:
            yield group
            group = []
    if group:
        yield group


def _norms(
    model: nn.Module, taps: Taps, logits: Tensor, vectors: Sequence[Tensor]
) -> dict[tuple[str, str], list[float]]:
    """``||J^T s||^2`` summed over images, for each layer and vector."""
    keys = [("weight", n, i) for n, ts in taps.outputs.items() for i in range(len(ts))]
    keys += [("input", n, i) for n, ts in taps.inputs.items() for i in range(len(ts))]
    at: Mapping[str, Mapping[str, Sequence[Tensor]]] = {
        "weight": taps.outputs, "input": taps.inputs
    }  # fmt: skip
    tensors = [at[kind][name][i] for kind, name, i in keys]
    norms: dict[tuple[str, str], list[float]] = defaultdict(lambda: [0.0] * len(vectors))
    kept: dict[str, list[Tensor]] = {name: [] for name in taps.outputs}
    for column, vector in enumerate(vectors):
        gradients = torch.autograd.grad(
            logits, tensors, vector, retain_graph=True, allow_unused=True, materialize_grads=True
        )
        for (kind, name, _), gradient in zip(keys, gradients, strict=True):
            if kind == "input":
                norms[kind, name][column] += float(gradient.square().sum(dtype=torch.float64))
            else:
                kept[name].append(gradient)
    for name, deltas in kept.items():
        module, (read,) = model.get_submodule(name), taps.reads[name]
        norms["weight", name] = gradient_norms(module, read, torch.stack(deltas)).tolist()
    return norms


def gradient_norms(module: nn.Module, read: Tensor, deltas: Tensor) -> Tensor:
    """Squared norms of each image's weight gradient, summed over images.

    Args:
        module: a convolution or a linear layer.
        read: its input ``[B, I, ...]`` (linear: ``[B, ..., I]``).
        deltas: gradients of its output ``[K, B, O, ...]`` (linear: ``[K, B, ..., O]``).

    Returns:
        ``[K]``, in float64.
    """
    x, d = _patches(module, read), _positions(module, deltas)
    (count, batch, groups, outputs, positions), inputs = d.shape, x.shape[2]
    if positions * (inputs + count * outputs) < count * outputs * inputs:
        gram = x.transpose(-1, -2) @ x
        values = (d.transpose(-1, -2) @ d * gram).flatten(1)
    else:
        rows = d.movedim(0, 2).reshape(batch, groups, count * outputs, positions)
        gradients = (rows @ x.transpose(-1, -2)).view(batch, groups, count, -1)
        values = gradients.square().movedim(2, 0).flatten(1)
    return values.sum(1, dtype=torch.float64)


def _patches(module: nn.Module, read: Tensor) -> Tensor:
    """What each output position reads: ``[B, groups, I, T]``."""
    if isinstance(module, nn.Linear):
        return read.reshape(len(read), 1, -1, read.shape[-1]).transpose(-1, -2)
    assert isinstance(module, nn.Conv1d | nn.Conv2d)
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    read = functional.pad(read, module._reversed_padding_repeated_twice, mode=mode)
    lead = (1,) if read.dim() == 3 else ()
    unfolded = functional.unfold(
        read.unsqueeze(2) if lead else read,
        kernel_size=(*lead, *module.kernel_size),
        dilation=(*lead, *module.dilation),
        stride=(*lead, *module.stride),
    )
    return unfolded.view(len(read), module.groups, -1, unfolded.shape[-1])


def _positions(module: nn.Module, deltas: Tensor) -> Tensor:
    """Output gradients as ``[K, B, groups, O, T]``."""
    count, batch = deltas.shape[:2]
    if isinstance(module, nn.Linear):
        return deltas.reshape(count, batch, 1, -1, deltas.shape[-1]).transpose(-1, -2)
    assert isinstance(module, nn.Conv1d | nn.Conv2d)
    channels = deltas.shape[2] // module.groups
    return deltas.reshape(count, batch, module.groups, channels, -1)


def _summary(row: Sequence[float], exact: int, size: int) -> GaussNewton:
    own, drawn = row[:exact], row[exact:]
    if not drawn:
        return GaussNewton(math.fsum(own), 0.0, size, len(row))
    mean = math.fsum(drawn) / len(drawn)
    spread = math.fsum((value - mean) ** 2 for value in drawn) / max(len(drawn) - 1, 1)
    error = math.sqrt(spread / len(drawn)) if len(drawn) > 1 else math.inf
    return GaussNewton(math.fsum(own) + mean, error, size, len(row))
