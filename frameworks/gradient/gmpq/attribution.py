"""GMPQ's attributions: where a network looks, and how far a quantized one looks elsewhere.

As the released code (models/mixresnet.py, search_attention.py) has it, with the feature maps F of
the last stage, the network's own largest logit y_top and n positions:

    g_c = sum over positions of d y_top / d F_c,      A = relu(sum_c g_c F_c)        (n numbers)
    L_A = mean over images and positions of ( A_q / ||A_q|| - A_f^p / ||A_f^p|| )^2
        = mean over images of (2 - 2 cos(A_q, A_f^p)) / n

with A_q of the quantized network, A_f of the float one. The power p concentrates the target where
the float network looks most, the more the fewer bits there are,

    p = 24 mean_l 1 / (E[b_w,l] E[b_a,l]),

and is a constant for the gradient.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional

from frameworks.core.problem import Problem
from frameworks.core.space import Space
from frameworks.core.supernets.relaxations import choice_rows
from frameworks.core.supernets.supernet import CompositeNet

PRODUCT = 24.0
SMALLEST = 1e-12


def last_stage(problem: Problem) -> tuple[str, list[str]] | None:
    """The module whose output the attributions are of, and the layers behind it.

    It is the block (or the layer, outside blocks) of the last layer that has several positions and
    is not the last layer. None where there is none.
    """
    before = problem.layers[:-1]
    for layer in reversed(before):
        if layer.positions > 1:
            path = layer.block or layer.name
            inside = [x.index for x in problem.layers if x.block == layer.block]
            return path, [x.name for x in problem.layers if x.index > max(inside)]
    return None


class FeatureMaps:
    """Takes the feature maps of a module whenever its network runs.

    Args:
        network: holds the module.
        path: of the module.
        start: begin the graph at the maps; for a network without gradients of its own.
    """

    def __init__(self, network: nn.Module, path: str, start: bool = False) -> None:
        self.module, self.start = network.get_submodule(path), start
        self.maps: Tensor | None = None

    @contextmanager
    def watched(self) -> Iterator[FeatureMaps]:
        """Within the context the maps of each pass are kept."""

        def keep(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            self.maps = output.detach().requires_grad_() if self.start else output
            return self.maps.clone()  # what follows may work in place

        handle = self.module.register_forward_hook(keep)
        try:
            yield self
        finally:
            handle.remove()
            self.maps = None

    def attribution(self, logits: Tensor, differentiable: bool = False) -> Tensor:
        """``A`` of the last pass, ``[B, positions]``, from its logits ``[B, classes]``.

        Args:
            logits: of the pass.
            differentiable: whether ``g_c`` has a gradient; the maps have theirs in any case.
        """
        assert self.maps is not None
        top = logits.max(1).values.sum()
        (slope,) = torch.autograd.grad(
            top, self.maps, create_graph=differentiable, retain_graph=True
        )
        return weighed(self.maps, slope)


class Attributed(nn.Module):
    """A composite network beside the float network that it is compared with.

    A pass gives the composite network's logits; `distance` then compares the attributions.

    Args:
        problem: of the data set that is searched on.
        net: its composite network.
    """

    def __init__(self, problem: Problem, net: CompositeNet) -> None:
        super().__init__()
        found = last_stage(problem)
        assert found is not None, "skip has seen to it"
        path, behind = found
        self.net = net
        self.differentiable = net.mixed.keys().isdisjoint(behind)
        teacher = problem.float_model().requires_grad_(False)
        self.teacher = (teacher,)  # no part of what is trained, or put into training mode
        self.own = FeatureMaps(net.qmodel.model, path)
        self.others = FeatureMaps(teacher, path, start=True)
        self.attributions: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        with self.own.watched() as maps:
            logits: Tensor = self.net(x)
            self.attributions = maps.attribution(logits, self.differentiable)
        return logits

    def target(self, x: Tensor) -> Tensor:
        """The float network's attributions ``[B, positions]``, without gradient."""
        with torch.enable_grad(), self.others.watched() as maps:
            return maps.attribution(self.teacher[0](x)).detach()

    def distance(self, x: Tensor, power: float) -> Tensor:
        """``L_A`` of the images that were passed last, times their positions; a scalar."""
        assert self.attributions is not None
        found, self.attributions = self.attributions, None
        return distance(found, self.target(x), power) * found.shape[1]


def weighed(maps: Tensor, slope: Tensor) -> Tensor:
    """``relu(sum_c g_c F_c)`` as ``[B, positions]``.

    Args:
        maps: F, images ``[B, C, H, W]`` or tokens ``[B, N, C]``.
        slope: ``d y_top / d F``, of the same shape.
    """
    axis = 2 if maps.dim() == 3 else 1
    positions = [i for i in range(1, maps.dim()) if i != axis]
    g = slope.sum(positions, keepdim=True)
    return functional.relu((g * maps).sum(axis)).flatten(1)


def distance(quantized: Tensor, target: Tensor, power: float) -> Tensor:
    """``L_A`` between attributions ``[B, positions]``, the target's to a power; a scalar."""
    one = functional.normalize(quantized, dim=1, eps=SMALLEST)
    other = functional.normalize((target.detach() + SMALLEST) ** power, dim=1, eps=SMALLEST)
    return (one - other).square().mean()


def expected_bits(space: Space, p: Tensor) -> Mapping[str, tuple[float, float]]:
    """The expected weight and activation bits of every layer with a choice, under ``p``."""
    p, found = p.detach().cpu(), {}
    for name, rows in choice_rows(space).items():
        if rows == (None, None):
            continue
        each = []
        for row, bits in zip(rows, (space.weight_bits[name], space.act_bits[name]), strict=True):
            shares = torch.ones(1) if row is None else p[row, : len(bits)]
            each.append(float(shares @ torch.tensor(bits, dtype=shares.dtype)))
        found[name] = (each[0], each[1])
    return found


def adaptive_power(space: Space, p: Tensor) -> float:
    """``24 mean_l 1 / (E[b_w] E[b_a])`` over the layers with a choice."""
    each = [1 / (w * a) for w, a in expected_bits(space, p).values()]
    return PRODUCT * sum(each) / len(each)
