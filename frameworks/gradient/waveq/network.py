"""A network whose weights have periods: making it, reading it, and what is left of it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from frameworks.core.networks.taking.bake import raw_weight
from frameworks.core.policy import Policy
from frameworks.core.problem import Problem
from frameworks.core.quantizers.base import Quantizer
from frameworks.core.quantizers.uniform import SMALLEST_STEP
from frameworks.core.supernets.placed import PlacedNet, Spot
from frameworks.gradient.waveq.sinusoid import Period, WaveWeight


def reach_of(inner: nn.Module) -> Tensor:
    """``max|w|`` of a layer, a scalar."""
    return raw_weight(inner).detach().abs().max().clamp_min(SMALLEST_STEP)


def waved(problem: Problem, acts: dict[str, int]) -> tuple[PlacedNet, dict[int, Period]]:
    """The network with a period for each decision about weights; the periods by its row."""
    periods: dict[int, Period] = {}

    def make(spot: Spot) -> Quantizer:
        name = spot.layer.name
        if spot.kind == "act":
            return problem.quantizer(name, "act", acts[name])
        period = periods.setdefault(spot.row, Period(spot.bits, problem.device))
        each = {bits: problem.quantizer(name, "weight", bits) for bits in spot.bits}
        return WaveWeight(period, spot.tensor.abs().max().clamp_min(SMALLEST_STEP), each)

    return PlacedNet(problem, make), periods


def weights_of(net: PlacedNet) -> list[tuple[Tensor, float]]:
    """The weights that have a period, each with how far it reaches."""
    found = []
    for spot, quantizer in net.placed("weight"):
        assert isinstance(quantizer, WaveWeight)
        weight = net.qmodel.qlayer(spot.layer.name).inner.weight
        assert isinstance(weight, Tensor)
        found.append((weight, float(quantizer.reach)))
    return found


def waves_of(net: PlacedNet) -> Tensor:
    """The sum of the layers' regularizers (a scalar)."""
    terms = []
    for spot, quantizer in net.placed("weight"):
        assert isinstance(quantizer, WaveWeight)
        terms.append(quantizer.regularizer(raw_weight(net.qmodel.qlayer(spot.layer.name).inner)))
    return torch.stack(terms).sum()


def policy_of(net: PlacedNet, acts: dict[str, int]) -> Policy:
    """The bits of the periods, with the activation bits of the search."""

    def bits(quantizer: Quantizer) -> int:
        assert isinstance(quantizer, WaveWeight)
        return quantizer.period.bits

    return net.weights_at(bits, acts)
