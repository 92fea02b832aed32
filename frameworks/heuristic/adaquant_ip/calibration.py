"""Layers calibrated one by one (arXiv 2006.10518, section 3.1, in its parallel form).

Every layer is calibrated by itself, at each pair of bits, on what goes in and comes out of it in
the float network, so that no layer waits for another one:

    min over V, steps and bias of  E ||W x - Q_w(W + V) Q_a(x)||^2.

The optimisation is `frameworks.core.rounding.adaquant`. The sequential form, in which inputs come
from layers that are quantized already, needs their bits: it is `frameworks.core.rounding.apply`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from frameworks.core.networks.qmodel import QModel
from frameworks.core.policy import LayerBits, Pair, Policy
from frameworks.core.problem import Problem
from frameworks.core.quantizers.base import Codes
from frameworks.core.rounding.apply import IMAGES, movable, rounded
from frameworks.core.rounding.moments import Gathered, LayerMoments

Pairs = Mapping[str, Iterable[Pair]]
"""The pairs of weight and activation bits of each layer."""


class CalibratedModel(QModel):
    """A quantized network whose layers have what was calibrated for them at their bits.

    Attributes:
        made: codes of the weights and the shift of the output, by layer and pair of bits; other
            layers and bits have the nearest weights.
    """

    made: dict[tuple[str, LayerBits], tuple[Codes, Tensor | None]]

    def fix(self, policy: Policy) -> CalibratedModel:
        super().fix(policy)
        for name, q in self.qlayers():
            if (name, q.bits) in self.made:
                codes, shift = self.made[name, q.bits]
                q.round(codes)
                q.shift = shift
        return self


def calibrated(problem: Problem, pairs: Pairs, steps: int) -> CalibratedModel:
    """The problem's network, each layer calibrated at each pair of bits by so many steps.

    With no steps all weights are at the nearest levels.
    """
    model = CalibratedModel(problem.network, problem.layers, problem.scheme, problem.observe())
    model.made = {}
    problem.meter.watch(model)
    if not steps:
        return model
    moments = layer_moments(problem, model, pairs)
    for done, (name, options) in enumerate(pairs.items()):
        problem.progress(done, len(pairs), "layers calibrated")
        levels = {w: movable(model, name, w) for w in sorted({w for w, _ in options})}
        for weight, act in options:
            grid = levels[weight]
            if grid is not None:
                found = rounded(
                    model.qlayer(name), grid, moments[name, act], "adaquant", steps=steps
                )
                model.made[name, LayerBits(weight, act)] = found
    return model


def layer_moments(
    problem: Problem, model: QModel, pairs: Pairs
) -> dict[tuple[str, int], LayerMoments]:
    """The moments of each layer and activation bit width, all inputs the float network's."""
    network = problem.float_model()
    acts = {name: sorted({a for _, a in options}) for name, options in pairs.items()}
    sums = {(name, a): Gathered(model.qlayer(name)) for name in acts for a in acts[name]}
    for part in torch.split(problem.images, IMAGES):
        with _calls(network, acts) as seen:
            network(part)
        for name, x, y in seen:
            for a in acts[name]:
                quantizer = model.calibration.quantizer(model.scheme, name, a)
                sums[name, a].add(quantizer(x), y)
    return {key: found.moments() for key, found in sums.items()}


@contextmanager
def _calls(network: nn.Module, names: Iterable[str]) -> Iterator[list[tuple[str, Tensor, Tensor]]]:
    """What goes into layers and comes out of them, call by call, while the context lasts."""
    seen: list[tuple[str, Tensor, Tensor]] = []
    handles = [
        network.get_submodule(name).register_forward_hook(
            lambda module, args, out, name=name: seen.append((name, args[0].detach(), out.detach()))
        )
        for name in names
    ]
    try:
        with torch.no_grad():
            yield seen
    finally:
        for handle in handles:
            handle.remove()
