"""Rounding the weights of a whole network, layer by layer in execution order.

A BatchNorm keeps its float statistics while layers are rounded, so that a layer sees inputs like
those of the final network, in which BatchNorm is corrected for what was rounded. Correcting after
each layer would take a pass for each of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from frameworks.core.networks.qlayer import QLayer
from frameworks.core.networks.qmodel import QModel
from frameworks.core.networks.taking.bake import mask_of, raw_weight
from frameworks.core.policy import Bits
from frameworks.core.quantizers.base import Codes, Quantizer
from frameworks.core.rounding.adaquant import STEPS, adaquant
from frameworks.core.rounding.adaround import adaround
from frameworks.core.rounding.gptq import gptq
from frameworks.core.rounding.levels import Levels, levels_of
from frameworks.core.rounding.moments import Gathered, LayerMoments
from frameworks.core.rounding.ranges import TRIED, scaled, trial

NEAREST = "nearest"
ROUNDINGS = (NEAREST, "gptq", "adaround", "adaquant")
REVISION = 2
"""Of the others' numbers: part of the identity of a cell that has one of them."""
IMAGES = 64
"""That go through the networks at a time."""


def round_weights(
    qmodel: QModel,
    network: nn.Module,
    images: Tensor,
    method: str,
    steps: int | None = None,
    factors: Sequence[float] = (),
) -> tuple[str, ...]:
    """Round the weights of a quantized network in place, at the bits in force.

    Each layer's inputs are those in the network whose earlier layers are rounded already; the
    outputs that it ought to give are the float network's. BatchNorm's statistics should be the
    float ones, and be corrected afterwards.

    Args:
        qmodel: at a policy (`frameworks.QModel.fix`), not corrected yet.
        network: the float network.
        images: ``[N, C, H, W]``.
        method: one of `ROUNDINGS`.
        steps: of ``adaquant``; the published number by default.
        factors: multiples of each input's range to choose from (`frameworks.core.rounding.ranges`),
            for ``adaquant``; ranges stay as they were calibrated by default.

    Returns:
        The layers with quantized weights that stay at the nearest levels: those that share their
        weights or have them read by a function, transposed ones, and those without a uniform grid.

    Raises:
        ValueError: there is no such method.
    """
    if method not in ROUNDINGS:
        raise ValueError(f"rounding: {method!r}; choose from {list(ROUNDINGS)}")
    left: list[str] = []
    for name, q in qmodel.qlayers() if method != NEAREST else ():
        levels = movable(qmodel, name, q.bits.weight)
        if levels is None:
            if q.codes() is not None:
                left.append(name)
            continue
        if factors:
            few = trial(STEPS if steps is None else steps)
            q.act_quantizer = _range(qmodel, network, name, images[:TRIED], levels, factors, few)
        moments = gathered(qmodel, network, name, images)
        codes, shift = rounded(q, levels, moments, method, steps)
        q.round(codes)
        if shift is not None:
            q.shift = shift
    return tuple(left)


def movable(qmodel: QModel, name: str, bits: Bits) -> Levels | None:
    """The levels of a layer's weights at some bits; None where its weights stay at the nearest.

    What is pruned has one level, the nearest to 0.
    """
    q = qmodel.qlayer(name)
    layer = q.layer
    sharing = {other.layer.shared for _, other in qmodel.qlayers()} - {""}
    if layer.shared or name in sharing or layer.read or layer.transposed:
        return None
    levels, mask = levels_of(q.scheme, raw_weight(q.inner).detach(), bits), mask_of(q.inner)
    return levels if levels is None or mask is None else levels.kept(mask.bool())


def rounded(
    q: QLayer, levels: Levels, moments: LayerMoments, method: str, steps: int | None = None
) -> tuple[Codes, Tensor | None]:
    """The codes of a layer's weights, and the shift of its output that goes with them, if any.

    Args:
        q: the layer.
        levels: of its weights, see `movable`.
        moments: of its data.
        method: one of `ROUNDINGS` that does more than take the nearest.
        steps: of ``adaquant``; the published number by default.
    """
    weight, groups = raw_weight(q.inner).detach(), len(moments.inputs)
    shape = (groups, len(weight) // groups, weight[0].numel())
    rows, grid = weight.reshape(shape), levels.view(*shape)
    step = grid.step
    if method == "adaquant":
        code, step = adaquant(rows, grid, moments, steps=STEPS if steps is None else steps)
    else:
        code = (gptq if method == "gptq" else adaround)(rows, grid, moments)
    value = step * (code + grid.offset)
    one = (len(weight), *(1,) * (weight.dim() - 1))
    # Every row has one step and offset.
    scale, offset = (x.reshape(len(weight), -1)[:, :1].reshape(one) for x in (step, grid.offset))
    codes = Codes(code.reshape(weight.shape), scale, offset)
    if method != "adaquant":
        return codes, None
    return codes, moments.shift(value.double()).flatten().to(weight)


def error_of(q: QLayer, levels: Levels, moments: LayerMoments, steps: int) -> float:
    """The mean squared error of a layer's outputs, summed over channels, after so much AdaQuant."""
    codes, _ = rounded(q, levels, moments, "adaquant", steps)
    shape = (*moments.outputs.shape, -1)
    return float(moments.centred().error(codes.dequantize().double().reshape(shape)).sum())


def _range(
    qmodel: QModel,
    network: nn.Module,
    name: str,
    images: Tensor,
    levels: Levels,
    factors: Sequence[float],
    steps: int,
) -> Quantizer:
    """The quantizer of a layer's input, of those in reach, that leaves the least error."""
    q = qmodel.qlayer(name)
    tried = scaled(q.scheme, qmodel.calibration.samples[name], q.bits.act, factors)
    errors: dict[float, float] = {}
    for factor, quantizer in tried.items() if len(tried) > 1 else ():
        q.act_quantizer = quantizer
        moments = gathered(qmodel, network, name, images)
        errors[factor] = error_of(q, levels, moments, steps)
    return tried[min(errors, key=errors.__getitem__, default=next(iter(tried)))]


@torch.no_grad()
def gathered(qmodel: QModel, network: nn.Module, name: str, images: Tensor) -> LayerMoments:
    """The moments of a layer: its inputs in the quantized network, outputs of the float one."""
    q, float_layer = qmodel.qlayer(name), network.get_submodule(name)
    sums = Gathered(q)
    for part in torch.split(images, IMAGES):
        outputs = _calls(network, float_layer, part, outputs=True)
        inputs = _calls(qmodel, q, part, outputs=False)
        for x, y in zip(inputs, outputs, strict=True):
            sums.add(q.act_quantizer(x), y)
    return sums.moments()


def _calls(model: nn.Module, module: nn.Module, x: Tensor, *, outputs: bool) -> list[Tensor]:
    """What goes into a module, or comes out of it, in each of its calls."""
    found: list[Tensor] = []

    def note(_: nn.Module, args: tuple[Any, ...], out: Any = None) -> None:
        found.append(out if outputs else args[0])

    with _hooked(module, note, outputs):
        model(x)
    return found


@contextmanager
def _hooked(module: nn.Module, note: Any, outputs: bool) -> Iterator[None]:
    register = module.register_forward_hook if outputs else module.register_forward_pre_hook
    handle = register(note)
    try:
        yield
    finally:
        handle.remove()
