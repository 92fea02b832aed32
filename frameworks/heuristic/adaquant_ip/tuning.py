"""What corrects a network of found bits (arXiv 2006.10518, BatchNorm and bias tuning; its code).

Para-normalization. The paper folds BatchNorm into the layers; for the tuning it puts one back that
changes nothing at first, with the running mean beta, variance gamma^2, weight sqrt(gamma^2 + eps)
and bias beta of the one that was folded. In a pass in train mode these statistics move to those of
the quantized network, weight and bias stay; then it is folded again. A BatchNorm that was never
folded does the same by itself: with z = gamma (c - mu) / sigma + beta, moving beta towards the mean
of z and gamma^2 towards its variance moves mu and sigma^2 as much towards those of c.

Bias tuning. All else being fixed, biases are trained so that the answers are the float network's,

    min over biases of  KL(softmax(f(x)) || softmax(f_q(x))),   the mean over images and classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from frameworks.core.evaluation.train import Recipe
from frameworks.core.networks.batchnorm import batchnorms
from frameworks.core.networks.qmodel import QModel

BATCHES, MOMENTUM = 5, 0.1
"""Of the pass in train mode: the statistics keep 0.9^5 = 0.59 of what they were."""


@torch.no_grad()
def para_normalize(model: nn.Module, images: Tensor, momentum: float = MOMENTUM) -> None:
    """Move the statistics of a network's BatchNorms by a pass over images ``[N, C, H, W]``.

    The network is left in eval mode.
    """
    model.eval()
    norms = {norm: norm.momentum for norm in batchnorms(model)}
    for norm in norms:
        norm.train()
        norm.momentum = momentum
    # A batch of one image may have no variance.
    for part in torch.tensor_split(images, max(1, min(BATCHES, len(images) // 2))):
        if norms:
            model(part)
    for norm, kept in norms.items():
        norm.momentum = kept
    model.eval()


def biases(qmodel: QModel, image: Tensor) -> list[nn.Parameter]:
    """The biases that are tuned: those that a network has once its BatchNorms are folded.

    BatchNorms' and those of layers that none follows, but for the last layer's (the classifier's).

    Args:
        qmodel: in eval mode.
        image: one or a few ``[N, C, H, W]``, which tell what follows what.
    """
    left = {qmodel.layers[-1].name, *_normalized(qmodel, image)}
    layers = [q.inner for name, q in qmodel.qlayers() if name not in left]
    found = (getattr(module, "bias", None) for module in (*batchnorms(qmodel), *layers))
    return list({id(p): p for p in found if isinstance(p, nn.Parameter)}.values())


@torch.no_grad()
def _normalized(qmodel: QModel, image: Tensor) -> set[str]:
    """The layers whose outputs are inputs of a BatchNorm."""
    made: list[tuple[str, Tensor]] = []
    read: list[Tensor] = []
    handles = [
        q.register_forward_hook(lambda module, args, out, name=name: made.append((name, out)))
        for name, q in qmodel.qlayers()
    ]
    handles += [
        norm.register_forward_pre_hook(lambda module, args: read.append(args[0]))
        for norm in batchnorms(qmodel)
    ]
    try:
        qmodel(image)
    finally:
        for handle in handles:
            handle.remove()
    return {name for name, out in made if any(out is x for x in read)}


def tune_biases(
    qmodel: QModel,
    teacher: Callable[[Tensor], Tensor],
    images: Tensor,
    recipe: Recipe,
    generator: torch.Generator,
) -> list[float]:
    """Train the biases of a network at fixed bits in place; the losses of all steps.

    Args:
        qmodel: in eval mode, with the weights it shall keep.
        teacher: the float network.
        images: ``[N, C, H, W]``, without labels.
        recipe: passes, images of each, batch and rate of plain SGD.
        generator: of the CPU; draws each pass.

    Raises:
        FloatingPointError: a loss is not finite.
    """
    tuned = biases(qmodel, images[:1])
    if not tuned:
        return []
    with torch.no_grad():
        answers = teacher(images).softmax(1)
    optimizer = torch.optim.SGD(tuned, lr=recipe.lr, momentum=recipe.momentum)
    losses: list[float] = []
    for index in _drawn(len(images), recipe, generator):
        index = index.to(images.device)
        logits = functional.log_softmax(qmodel(images[index]), 1)
        loss = functional.kl_div(logits, answers[index], reduction="none").mean()
        if not bool(torch.isfinite(loss)):
            raise FloatingPointError(f"bias tuning: the loss is {float(loss)}; lower its rate")
        optimizer.zero_grad()
        for parameter, slope in zip(
            tuned, torch.autograd.grad(loss, tuned, allow_unused=True), strict=True
        ):
            parameter.grad = slope
        optimizer.step()
        losses.append(float(loss.detach()))
    for parameter in tuned:
        parameter.grad = None
    return losses


def _drawn(count: int, recipe: Recipe, generator: torch.Generator) -> list[Tensor]:
    """The images of each step: batches of a part of the images, drawn anew for each pass."""
    most = min(recipe.images or count, count)
    steps = max(1, math.ceil(recipe.epochs * math.ceil(most / recipe.batch)))
    found: list[Tensor] = []
    while len(found) < steps:
        order = torch.randperm(count, generator=generator)[:most]
        found += torch.split(order, recipe.batch)
    return found[:steps]
