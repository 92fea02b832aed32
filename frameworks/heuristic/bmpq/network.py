"""The network that BMPQ trains: random weights, layers whose bits change, and what watches them."""

from __future__ import annotations

import torch
from torch import Tensor

from frameworks.core.networks.correction import reestimate_batchnorm
from frameworks.core.networks.qmodel import QModel
from frameworks.core.policy import LayerBits
from frameworks.core.problem import Problem
from frameworks.core.quantizers.base import Quantizer
from frameworks.core.quantizers.pact import Pact
from frameworks.core.quantizers.uniform import UniformQuantizer
from frameworks.core.randomness import seeded
from frameworks.heuristic.bmpq.bits import BitGradients


def random_weights(problem: Problem) -> dict[str, Tensor]:
    """A state of the network as torch initialises it; what has no such rule stays as it is.

    BatchNorm has the statistics of the calibration images, so that ranges fit what it gives.
    """
    network = problem.float_model()
    with seeded(problem.seed, "bmpq", "init"):
        for module in network.modules():
            reset = getattr(module, "reset_parameters", None)
            if callable(reset):
                reset()
    reestimate_batchnorm(network, problem.images)
    return {name: value.detach() for name, value in network.state_dict().items()}


def watch(net: QModel, names: list[str], common: bool = True) -> dict[str, BitGradients]:
    """Let the weight quantizers of layers note their bit gradients; those, by layer.

    A weight that is stored once is noted with its first layer, and quantized by its quantizer.

    Args:
        net: in training.
        names: its layers.
        common: see `BitGradients`.
    """
    found: dict[str, BitGradients] = {}
    for name in names:
        qlayer = net.qlayer(name)
        if qlayer.layer.shared in found:
            qlayer.weight_quantizer = found[qlayer.layer.shared]
            continue
        if not isinstance(qlayer.weight_quantizer, BitGradients):
            inner, bits = qlayer.weight_quantizer, qlayer.bits.weight
            assert isinstance(bits, int)
            qlayer.weight_quantizer = BitGradients(inner, bits, common)
        found[name] = qlayer.weight_quantizer
    return found


def change(net: QModel, name: str, bits: LayerBits) -> None:
    """Give a layer other bits: weights are scaled anew, inputs keep the range that was learned."""
    qlayer = net.qlayer(name)
    if qlayer.bits != bits:
        before = qlayer.act_quantizer
        qlayer.free(bits)
        keep_range(before, qlayer.act_quantizer)


@torch.no_grad()
def keep_range(before: Quantizer, after: Quantizer) -> None:
    """Let activations have the same range at other bits: PACT's alpha, or a step for its levels."""
    if isinstance(before, Pact) and isinstance(after, Pact):
        after.alpha.copy_(before.alpha)
    if isinstance(before, UniformQuantizer) and isinstance(after, UniformQuantizer):
        old, new = (q.q_max - q.q_min for q in (before, after))
        after.step.copy_(before.step * (old / new))
