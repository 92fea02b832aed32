"""Where CSQ's planes stand: in the network that is searched, and in the one that is fine-tuned."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from frameworks.core.evaluation.train import Loss, cross_entropy
from frameworks.core.networks.qmodel import QModel
from frameworks.core.networks.taking.bake import mask_of, raw_weight, stored_weight
from frameworks.core.problem import Problem
from frameworks.core.quantizers.base import Quantizer
from frameworks.core.quantizers.bitplanes import BitPlanes
from frameworks.core.supernets.placed import Spot
from frameworks.gradient.csq.planes import ContinuousPlanes
from frameworks.gradient.csq.precision import Precision, plane_count


def planter(
    problem: Problem, precision: Precision, acts: Mapping[str, int]
) -> Callable[[Spot], Quantizer]:
    """Makes the quantizer of a spot: planes of a weight, the protocol's at ``acts`` bits else."""

    def make(spot: Spot) -> Quantizer:
        name = spot.layer.name
        if spot.kind == "act":
            return problem.quantizer(name, "act", acts[name])
        count = plane_count(spot.bits)
        mask = mask_of(problem.network.get_submodule(name))
        quantizer = problem.quantizer(name, "weight", count + 1)
        start = BitPlanes.coded(spot.tensor, quantizer, count, mask)
        return ContinuousPlanes(start, precision.masks[spot.row])

    return make


def planes_of(qmodel: QModel) -> dict[str, ContinuousPlanes]:
    """The planes by layer; a shared weight's once."""
    found = ((name, q.weight_quantizer) for name, q in qmodel.qlayers() if not q.layer.shared)
    return {name: each for name, each in found if isinstance(each, ContinuousPlanes)}


@torch.no_grad()
def settle(qmodel: QModel, cut: float) -> dict[str, list[float]]:
    """Fix masks and bits and write what they give into the weights; the steps of each layer."""
    steps = {}
    for name, planes in planes_of(qmodel).items():
        planes.settle(cut)
        planes.grow(math.inf)
        inner = qmodel.qlayer(name).inner
        codes = planes.codes(raw_weight(inner))
        stored_weight(inner).data.copy_(codes.dequantize())
        steps[name] = codes.scale.flatten().tolist()
    return steps


def replant(qmodel: QModel, steps: Mapping[str, Sequence[float]]) -> None:
    """Put planes into a network at its policy: as many as the bits of each layer hold.

    A layer of which no plane was kept, and that is not left out, has the protocol's quantizer.
    """
    for name, values in steps.items():
        qlayer = qmodel.qlayer(name)
        weight, bits = raw_weight(qlayer.inner).detach(), qlayer.bits.weight
        if isinstance(bits, int) and bits > 1 and min(values) > 0:
            step = weight.new_tensor(values)
            step = step.view(-1, *(1,) * (weight.dim() - 1)) if len(values) > 1 else step.view(())
            code, mask = torch.round(weight / step), mask_of(qlayer.inner)
            qlayer.weight_quantizer = kept_planes(code, step, bits - 1, mask)
    for _, qlayer in qmodel.qlayers():
        if qlayer.layer.shared:
            qlayer.weight_quantizer = qmodel.qlayer(qlayer.layer.shared).weight_quantizer


def kept_planes(
    code: Tensor, step: Tensor, count: int, mask: Tensor | None = None
) -> ContinuousPlanes:
    """So many planes of an integer weight ``code * step``, all of them kept for good.

    Planes that it does not need lie below its least significant one. What a mask prunes stays 0.
    """
    spare = max(count - int(code.abs().max()).bit_length(), 0)
    masks = nn.Parameter(torch.ones(count, device=code.device), requires_grad=False)
    start = BitPlanes(code * 2**spare, step / 2**spare, count, mask)
    planes = ContinuousPlanes(start, masks)
    planes.settle(0.0)
    return planes


def growing(planes: Sequence[ContinuousPlanes], temperatures: Sequence[float], steps: int) -> Loss:
    """The cross-entropy; planes go to the next of the temperatures every so many of its calls."""
    done = 0

    def loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        nonlocal done
        if done % steps == 0:
            for each in planes:
                each.grow(temperatures[min(done // steps, len(temperatures) - 1)])
        done += 1
        return cross_entropy(model, x, y)

    return loss
