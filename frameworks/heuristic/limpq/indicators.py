"""LIMPQ's network for all bits: a learned step for each width, and a BatchNorm for each.

Tang et al., "Mixed-Precision Neural Network Quantization via Learned Layer-wise Importance", arXiv
2203.08368, section 3; details as in the released code (``indicators_pretraining``). Every searched
weight and input has one LSQ step s_b per candidate b, of which a pass uses (and trains) one:

    x_hat = s_b round(clip(x / s_b, Q_min(b), Q_max(b))),   dL/ds_b scaled by 1 / sqrt(n Q_max(b)).

Weights start at max(|mu - 3 sigma|, |mu + 3 sigma|) / 2^(b-1); inputs at 2 E|x| / sqrt(Q_max(b)),
of the first training batch that meets them. BatchNorm is there once for each width; in a pass of
mixed bits it follows the layer before it.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from frameworks.core.networks.batchnorm import batchnorms
from frameworks.core.networks.qlayer import QLayer
from frameworks.core.networks.qmodel import QModel
from frameworks.core.networks.standin import StandIn
from frameworks.core.networks.taking.bake import raw_weight
from frameworks.core.networks.taking.take import replaced
from frameworks.core.policy import LayerBits
from frameworks.core.problem import Problem
from frameworks.core.quantizers.base import Codes, Quantizer
from frameworks.core.quantizers.grid import fake_quantize
from frameworks.core.quantizers.lsq import lsq_step
from frameworks.core.quantizers.uniform import symmetric_grid
from frameworks.core.space import Space

SMALLEST = 1e-5
"""Steps do not fall below it."""
PUBLISHED = 6
"""The most bits of the paper. Steps of more learn at a tenth of the rate, as LSQ's at 8 bits do
(arXiv 1902.08153, section 3): they are so small that a full step of the optimizer ends them."""


def three_sigma_step(weight: Tensor, bits: int) -> Tensor:
    """The step at which a weight's b-bit grid reaches three standard deviations; a scalar."""
    mean, spread = weight.detach().mean(), 3 * weight.detach().std()
    reach = torch.maximum((mean - spread).abs(), (mean + spread).abs())
    step: Tensor = reach / 2 ** (bits - 1)
    return step


class Indicators(Quantizer):
    """One tensor's LSQ steps, one for each candidate width; that of the width in force is used.

    Args:
        bits: the candidates.
        signed: whether values may be negative.
        like: a tensor of the device and type of the steps; they start at it, if it is a weight.
        weight: whether ``like`` is the tensor that is quantized.
    """

    steps: nn.Parameter

    def __init__(self, bits: Sequence[int], signed: bool, like: Tensor, weight: bool) -> None:
        super().__init__()
        self.bits = tuple(bits)
        self.grids = [symmetric_grid(b) if signed else (0, 2**b - 1, 0.0) for b in bits]
        first = [three_sigma_step(like, b) if weight else like.new_ones(()) for b in bits]
        self.steps = nn.Parameter(torch.stack(first).detach().clone().clamp_min(SMALLEST))
        self.start = self.steps.detach().clone()
        self.met = [weight] * len(self.bits)
        self.place = 0

    def use(self, width: int) -> None:
        """Let the candidate nearest to a width be in force, the lower of two."""
        wanted = min(self.bits, key=lambda b: (abs(b - width), b))
        self.place = self.bits.index(wanted)

    def values(self) -> dict[int, float]:
        """The steps by width: the importance indicators."""
        steps = self.steps.detach().clamp_min(SMALLEST).tolist()
        return dict(zip(self.bits, steps, strict=True))

    def moved(self) -> float:
        """How far training has moved the steps: the mean of ``|ln(s / s_start)|``."""
        steps = self.steps.detach().clamp_min(SMALLEST)
        return float((steps / self.start.to(steps)).log().abs().mean())

    def forward(self, x: Tensor) -> Tensor:
        low, high, offset = self.grids[self.place]
        if self.training and not self.met[self.place]:
            self._meet(x, high)
        scale = (0.1 if self.bits[self.place] > PUBLISHED else 1) / math.sqrt(
            x.numel() * max(high, 1)
        )
        return fake_quantize(x, self.steps[self.place], low, high, offset, scale, SMALLEST)

    @torch.no_grad()
    def _meet(self, x: Tensor, high: int) -> None:
        self.met[self.place] = True
        step = lsq_step(x, high).clamp_min(SMALLEST)
        self.steps[self.place] = step
        self.start[self.place] = step

    @torch.no_grad()
    def codes(self, x: Tensor) -> Codes:
        low, high, offset = self.grids[self.place]
        step = self.steps[self.place].clamp_min(SMALLEST)
        code = torch.round((x / step - offset).clamp(low, high))
        return Codes(code, step, step.new_tensor(offset))


class SwitchableNorm(StandIn):
    """A BatchNorm for each width; ``place`` says which is in force."""

    def __init__(self, norm: nn.Module, count: int) -> None:
        super().__init__()
        self.copies = nn.ModuleList(copy.deepcopy(norm) for _ in range(count))
        self.place = 0

    def stood_for(self) -> nn.Module:
        return self.copies[0]

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.copies[self.place](x)
        return out


def drawn_together(space: Space) -> list[tuple[str, ...]]:
    """The searched layers in execution order, those that share bits together."""
    tied = {name: group for group in space.groups for name in group}
    names = (layer.name for layer in space.free_layers)
    return list(dict.fromkeys(tied.get(name, (name,)) for name in names))


class IndicatorNet(nn.Module):
    """The problem's network with `Indicators` at every searched layer; the others stay float.

    Attributes:
        widths: all candidates of the space, the most bits first.
        weights, acts: the indicators of each searched layer.
    """

    def __init__(self, problem: Problem) -> None:
        super().__init__()
        space = problem.space
        self.qmodel = problem.quantized()
        bits = {b for choice in space.choices for b in choice.bits}
        self.widths = tuple(sorted(bits, reverse=True))
        self.groups = drawn_together(space)
        searched = [name for group in self.groups for name in group]
        samples = problem.observe().samples
        after = followers(self.qmodel, problem.images[:2])  # of the network that is still float
        self.weights, self.acts = _indicators(self.qmodel, space, searched, samples)
        self.norms = self._switchable(after, set(searched))
        self.uniform(self.widths[0])

    def _switchable(
        self, after: Mapping[nn.Module, str], searched: set[str]
    ) -> dict[str, list[SwitchableNorm]]:
        """Put them in the place of every BatchNorm that comes after a searched layer."""
        found: dict[str, list[SwitchableNorm]] = {}
        for norm, layer in after.items():
            if layer in searched:
                stand = SwitchableNorm(norm, len(self.widths))
                self.qmodel.model = replaced(self.qmodel.model, norm, stand)
                found.setdefault(layer, []).append(stand)
        return found

    def set(self, widths: Mapping[str, int]) -> None:
        """Let every searched layer, and the BatchNorm after it, use a width."""
        for name, width in widths.items():
            self.weights[name].use(width)
            self.acts[name].use(width)
            for norm in self.norms.get(name, ()):
                norm.place = self.widths.index(width)

    def uniform(self, width: int) -> None:
        """One width for all."""
        self.set(dict.fromkeys(self.weights, width))

    def mixed(self, generator: torch.Generator) -> None:
        """A width for each layer, drawn from all with equal chances."""
        draws = torch.randint(len(self.widths), (len(self.groups),), generator=generator).tolist()
        drawn = zip(self.groups, draws, strict=True)
        self.set({name: self.widths[place] for group, place in drawn for name in group})

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.qmodel(x)
        return out

    def steps(self) -> list[nn.Parameter]:
        """The steps, those of a weight that is stored once only once."""
        every = (q.steps for q in (*self.weights.values(), *self.acts.values()))
        return list({id(p): p for p in every}.values())


Kept = dict[str, Indicators]


def _indicators(
    qmodel: QModel, space: Space, names: Sequence[str], samples: Mapping[str, Tensor]
) -> tuple[Kept, Kept]:
    weights: Kept = {}
    acts: Kept = {}
    for name in names:
        qlayer, raw = qmodel.qlayer(name), raw_weight(qmodel.qlayer(name).inner)
        w_bits, a_bits = space.weight_bits[name], space.act_bits[name]
        signed = bool(samples[name].min() < 0)
        # What is stored once has its steps once.
        shared = weights.get(qlayer.layer.shared)
        weights[name] = shared or Indicators(w_bits[::-1], True, raw, weight=True)
        acts[name] = Indicators(a_bits[::-1], signed, raw, weight=False)
        qlayer.use(LayerBits(w_bits[-1], a_bits[-1]), weights[name], acts[name])
    return weights, acts


@torch.no_grad()
def followers(qmodel: QModel, images: Tensor) -> dict[nn.Module, str]:
    """The layer that was last called before each BatchNorm's first call; empty for none."""
    called = [""]
    found: dict[nn.Module, str] = {}

    def note(module: nn.Module, args: object) -> None:
        if isinstance(module, QLayer):
            called.append(module.layer.name)
        else:
            found.setdefault(module, called[-1])

    watched = [*batchnorms(qmodel), *(q for _, q in qmodel.qlayers())]
    handles = [module.register_forward_pre_hook(note) for module in watched]
    try:
        qmodel.eval()(images)
    finally:
        for handle in handles:
            handle.remove()
    return found
