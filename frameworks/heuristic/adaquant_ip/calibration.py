"""Layers calibrated one by one (arXiv 2006.10518, section 3.1, in its parallel form).

Every layer is calibrated by itself, at each pair of bits, on what goes in and comes out of it in
the float network, so that no layer waits for another one:

    min over V, both steps and bias of  E ||W x - Q_w(W + V) Q_a(x)||^2.

The optimisation is `frameworks.core.rounding.adaquant`, the step of the input is chosen as
`frameworks.core.rounding.ranges` says. The sequential form, in which inputs come from layers that
are quantized already, needs their bits: it is `frameworks.core.rounding.apply`.

A layer at a time is looked at, and of it one width of the input, so that no more second moments are
held than there are widths of its weights.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from frameworks.core.networks.qlayer import QLayer
from frameworks.core.networks.qmodel import QModel
from frameworks.core.policy import LayerBits, Pair, Policy
from frameworks.core.problem import Problem
from frameworks.core.quantizers.base import Codes, Quantizer
from frameworks.core.rounding.apply import IMAGES, error_of, movable, rounded
from frameworks.core.rounding.levels import Levels
from frameworks.core.rounding.moments import Gathered, LayerMoments
from frameworks.core.rounding.ranges import TRIED, scaled, trial

Pairs = Mapping[str, Iterable[Pair]]
"""The pairs of weight and activation bits of each layer."""
Call = tuple[Tensor, Tensor]
"""What goes into a layer in a call of it, and what comes out."""


class Made(NamedTuple):
    """What was calibrated for a layer at a pair of bits.

    Attributes:
        codes: of the weights.
        shift: of the output; None for none.
        act: the quantizer of the input.
    """

    codes: Codes
    shift: Tensor | None
    act: Quantizer


class CalibratedModel(QModel):
    """A quantized network whose layers have what was calibrated for them at their bits.

    Attributes:
        made: by layer and pair of bits; at others weights are the nearest, inputs as calibrated.
    """

    made: dict[tuple[str, LayerBits], Made]

    def fix(self, policy: Policy) -> CalibratedModel:
        super().fix(policy)
        for name, q in self.qlayers():
            if (name, q.bits) in self.made:
                found = self.made[name, q.bits]
                q.round(found.codes)
                q.shift, q.act_quantizer = found.shift, found.act
        return self


def calibrated(problem: Problem, pairs: Pairs, steps: int) -> CalibratedModel:
    """The problem's network, each layer calibrated at each pair of bits by so many steps.

    With no steps all weights are at the nearest levels, and inputs as the protocol calibrates them.
    """
    model = CalibratedModel(problem.network, problem.layers, problem.scheme, problem.observe())
    model.made = {}
    problem.meter.watch(model)
    network = problem.float_model()
    for done, (name, options) in enumerate(pairs.items() if steps else ()):
        problem.progress(done, len(pairs), "layers calibrated")
        grids = {w: movable(model, name, w) for w in sorted({w for w, _ in options})}
        some = list(calls(network, name, problem.images[:TRIED]))
        for act in sorted({a for _, a in options}):
            levels = {w: grid for w, a in options if a == act and (grid := grids[w]) is not None}
            ranges = scaled(model.scheme, model.calibration.samples[name], act)
            best = chosen(model.qlayer(name), levels, ranges, some, trial(steps))
            every = calls(network, name, problem.images)
            for w, made in _made(model.qlayer(name), levels, ranges, best, every, steps).items():
                model.made[name, LayerBits(w, act)] = made
    return model


def chosen(
    q: QLayer,
    levels: Mapping[int, Levels],
    ranges: Mapping[float, Quantizer],
    some: Sequence[Call],
    steps: int,
) -> dict[int, float]:
    """For each bit width of a layer's weights, which of some ranges of its input errs least."""
    if len(ranges) == 1:
        return dict.fromkeys(levels, next(iter(ranges)))
    errors: dict[int, dict[float, float]] = {w: {} for w in levels}
    for factor, quantizer in ranges.items() if levels else ():
        moments = moments_of(q, {factor: quantizer}, some)[factor]
        for w, grid in levels.items():
            errors[w][factor] = error_of(q, grid, moments, steps)
    return {w: min(found, key=found.__getitem__) for w, found in errors.items()}


def _made(
    q: QLayer,
    levels: Mapping[int, Levels],
    ranges: Mapping[float, Quantizer],
    best: Mapping[int, float],
    every: Iterable[Call],
    steps: int,
) -> dict[int, Made]:
    """A layer calibrated with each bit width of its weights, its input's range being chosen."""
    if not best:
        return {}
    moments = moments_of(q, {factor: ranges[factor] for factor in best.values()}, every)
    found: dict[int, Made] = {}
    for w, factor in best.items():
        codes, shift = rounded(q, levels[w], moments[factor], "adaquant", steps)
        found[w] = Made(packed(codes), shift, ranges[factor])
    return found


def moments_of(
    q: QLayer, quantizers: Mapping[float, Quantizer], seen: Iterable[Call]
) -> dict[float, LayerMoments]:
    """The moments of calls of a layer, its input by each of some quantizers."""
    sums = {factor: Gathered(q) for factor in quantizers}
    for x, y in seen:
        for factor, quantizer in quantizers.items():
            sums[factor].add(quantizer(x), y)
    return {factor: found.moments() for factor, found in sums.items()}


@torch.no_grad()
def calls(network: nn.Module, name: str, images: Tensor) -> Iterator[Call]:
    """The calls of a layer of the float network, over a part of the images after the other."""
    seen: list[Call] = []
    handle = network.get_submodule(name).register_forward_hook(
        lambda module, args, out: seen.append((args[0].detach(), out.detach()))
    )
    try:
        for part in torch.split(images, IMAGES):
            network(part)
            yield from seen
            seen.clear()
    finally:
        handle.remove()


def packed(codes: Codes) -> Codes:
    """The same codes in the least memory: there are as many of them as pairs of bits."""
    low, high = codes.code.aminmax()
    kinds = (torch.uint8, torch.int8, torch.int32)
    fits = [k for k in kinds if torch.iinfo(k).min <= low and high <= torch.iinfo(k).max]
    return replace(codes, code=codes.code.to(fits[0]))
