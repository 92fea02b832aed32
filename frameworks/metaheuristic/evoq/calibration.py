"""EvoQ's last step: outputs and features of the quantized network are put back in place.

In execution order, each layer's outputs z in the quantized network (earlier layers calibrated) are
brought to those y of the float one, channel by channel, by least squares over the samples,

    minimise  E (alpha z + beta - y)^2:   alpha = Cov(z, y) / Var(z),   beta = E y - alpha E z.

alpha goes into the scale of the channel's weights and beta into a shift, so that the network stays
one of integers, and a layer keeps them only if the network's output difference falls.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from frameworks.core.networks.qlayer import QLayer
from frameworks.core.networks.qmodel import QModel
from frameworks.core.quantizers.base import Codes
from frameworks.metaheuristic.evoq.differences import difference


@torch.no_grad()
def calibrate(qmodel: QModel, network: nn.Module, images: Tensor) -> tuple[str, ...]:
    """Calibrate a quantized network in place, at the bits in force.

    Weights in a codebook, and those that several layers share or that a function reads, keep their
    scale: they are left out.

    Args:
        qmodel: at a policy (`frameworks.QModel.fix`).
        network: the float network.
        images: ``[N, C, H, W]``.

    Returns:
        The layers that were changed.
    """
    wanted = network(images)
    least = difference(qmodel(images), wanted)
    sharing = {q.layer.shared for _, q in qmodel.qlayers()} - {""}
    changed = []
    for name, q in qmodel.qlayers():
        codes, shift = q.codes(), q.shift
        own = not (q.layer.shared or name in sharing or q.layer.read or q.layer.transposed)
        if codes is None or codes.codebook is not None or not own:
            continue
        y = outputs(network, network.get_submodule(name), q, images)
        put(q, codes, *fitted(outputs(qmodel, q, q, images), y))
        found = difference(qmodel(images), wanted)
        if found < least:
            least = found
            changed.append(name)
        else:
            q.round(codes)
            q.shift = shift
    return tuple(changed)


def fitted(z: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Scale and shift, alpha and beta, of each row of ``z`` and ``y [C, n]``, in double precision.

    Where the outputs do not vary, or fall as the wanted ones rise, alpha is 1.
    """
    mean, goal = z.mean(1), y.mean(1)
    apart = z - mean[:, None]
    variance = apart.square().sum(1)
    alpha = (apart * (y - goal[:, None])).sum(1) / variance
    alpha = torch.where((variance > 0) & (alpha > 0), alpha, torch.ones_like(alpha))
    return alpha, goal - alpha * mean


def put(q: QLayer, codes: Codes, alpha: Tensor, beta: Tensor) -> None:
    """Make a layer give alpha z + beta in the place of z, its outputs with these codes."""
    bias = getattr(q.inner, "bias", None)
    rest = torch.zeros_like(alpha) if bias is None else bias.detach().double()
    if q.shift is not None:
        rest = rest - q.shift.double()
    # What follows the product with the weights, b - s, is to become alpha (b - s) + beta.
    wanted = alpha * rest + beta
    stays = torch.zeros_like(alpha) if bias is None else bias.detach().double()
    rows = alpha.to(codes.code).view(-1, *(1,) * (codes.code.dim() - 1))
    q.round(Codes(codes.code, codes.scale * rows, codes.offset))
    q.shift = (stays - wanted).to(codes.code)


def outputs(model: nn.Module, module: nn.Module, q: QLayer, images: Tensor) -> Tensor:
    """What a module gives in all of its calls, as ``[channels, n]`` in double precision."""
    found: list[Tensor] = []

    def note(_: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> None:
        last = q.layer.kind == "linear" or out.dim() == 2
        rows = out.reshape(-1, out.shape[-1]).T if last else out.transpose(0, 1).flatten(1)
        found.append(rows.double())

    handle = module.register_forward_hook(note)
    try:
        model(images)
    finally:
        handle.remove()
    return torch.cat(found, 1)
