"""Super networks: one network that holds all candidates of a space's choices at once.

- `CompositeNet`: every layer with a free choice runs once, on the weighted sums of its quantized
  weights and of its quantized inputs (one set of weights for all bits).
- `StochasticNet`: every block exists once per candidate, with its own weights and BatchNorm, and
  the block's output is the weighted sum of its copies' outputs.
"""

from __future__ import annotations

import copy
import functools
import operator
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from frameworks.core.networks.qlayer import QLayer, run_layer
from frameworks.core.networks.standin import LayerStandIn, StandIn
from frameworks.core.networks.taking.bake import raw_weight
from frameworks.core.networks.taking.hooks import take_hooks
from frameworks.core.networks.taking.take import replaced, swap_module
from frameworks.core.policy import LayerBits
from frameworks.core.problem import Problem
from frameworks.core.quantizers.base import Quantizer
from frameworks.core.quantizers.composite import Composite
from frameworks.core.quantizers.mix import mixed
from frameworks.core.supernets.relaxations import choice_rows


def release(problem: Problem, qlayer: QLayer, bits: LayerBits) -> None:
    """Put a layer at bits for training, as `QLayer.free`, with the problem's own quantizers."""
    assert isinstance(bits.weight, int)
    name = qlayer.layer.name
    qlayer.bits = bits
    qlayer.weight_quantizer = problem.quantizer(name, "weight", bits.weight)
    qlayer.act_quantizer = problem.quantizer(name, "act", bits.act)
    qlayer.weight_quantizer.learn_range()
    qlayer.act_quantizer.learn_range()


@contextmanager
def frozen(parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """Within the context these trained parameters get no gradient."""
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


def parts_of(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Trainable parameters: those outside quantizers, and those of quantizers."""
    quantizers = [m for m in model.modules() if isinstance(m, Quantizer | Composite)]
    ranges = {id(p): p for m in quantizers for p in m.parameters() if p.requires_grad}
    weights = [p for p in model.parameters() if p.requires_grad and id(p) not in ranges]
    return weights, list(ranges.values())


class CompositeLayer(LayerStandIn):
    """``y = f(sum_j p^a_j Q_j(x), sum_i p^w_i Q_i(W))``: one pass of the layer for all bits.

    The shares are set by the network before each pass; None means the only candidate.
    """

    def __init__(
        self, inner: nn.Module, weights: Sequence[Quantizer], acts: Sequence[Quantizer]
    ) -> None:
        super().__init__()
        self.inner = inner
        self.weights = Composite(weights) if len(weights) > 1 else weights[0]
        self.acts = Composite(acts) if len(acts) > 1 else acts[0]
        self.weights.learn_range()
        self.acts.learn_range()
        self.weight_shares: Tensor | None = None
        self.act_shares: Tensor | None = None

    def present_weight(self) -> Tensor:
        return _mixed(self.weights, raw_weight(self.inner), self.weight_shares)

    def forward(self, x: Tensor) -> Tensor:
        acts = _mixed(self.acts, x, self.act_shares)
        return run_layer(self.inner, acts, self.present_weight())


def _mixed(quantizer: nn.Module, x: Tensor, shares: Tensor | None) -> Tensor:
    out: Tensor = quantizer(x) if shares is None else quantizer(x, shares)
    return out


class CompositeNet(nn.Module):
    """The problem's network with a `CompositeLayer` for every layer with a free choice.

    Call it with the images after `mix`. Ranges of uniform grids are trained; other quantizers
    follow the weights by their own rule.
    """

    def __init__(self, problem: Problem) -> None:
        super().__init__()
        self.qmodel = problem.quantized()
        self.rows = choice_rows(problem.space)
        self.counts = [len(choice.bits) for choice in problem.space.choices]
        self.mixed: dict[str, CompositeLayer] = {}
        space = problem.space
        for name, qlayer in list(self.qmodel.qlayers()):
            w_bits, a_bits = space.weight_bits[name], space.act_bits[name]
            if self.rows[name] == (None, None):
                release(problem, qlayer, LayerBits(w_bits[0], a_bits[0]))
                continue
            self.mixed[name] = CompositeLayer(
                qlayer.inner,
                [problem.quantizer(name, "weight", bits) for bits in w_bits],
                [problem.quantizer(name, "act", bits) for bits in a_bits],
            )
            take_hooks(self.mixed[name], qlayer)
            self.qmodel.model = replaced(self.qmodel.model, qlayer, self.mixed[name])

    def mix(self, p: Tensor) -> None:
        """Set the shares ``[choices, K]`` of all candidates for the passes that follow."""
        shares = [row[:count] for row, count in zip(p.unbind(), self.counts, strict=True)]
        for name, layer in self.mixed.items():
            weight, act = self.rows[name]
            layer.weight_shares = None if weight is None else shares[weight]
            layer.act_shares = None if act is None else shares[act]

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.qmodel(x)
        return out

    def parts(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """Trainable weights, and trainable quantization ranges."""
        return parts_of(self.qmodel)


class StochasticBlock(StandIn):
    """``y = sum_k m_k block_k(x)``: copies of a block side by side."""

    def __init__(self, copies: Sequence[nn.Module]) -> None:
        super().__init__()
        self.copies = nn.ModuleList(copies)
        self.masks: Tensor | None = None

    def stood_for(self) -> nn.Module:
        return self.copies[0]

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        assert self.masks is not None
        if self.masks.requires_grad or self.masks.device.type != "cpu":
            pairs = zip(self.masks, self.copies, strict=True)
            terms = (share * block(*args, **kwargs) for share, block in pairs)
            out: Tensor = functools.reduce(operator.add, terms)
            return out
        masks, copies = self.masks, list(self.copies)
        if not torch.is_grad_enabled():
            # A copy without a share is not run: of one-hot masks, only the chosen one is.
            shared = masks.nonzero().flatten()
            masks, copies = masks[shared], [copies[i] for i in shared.tolist()]
        return mixed([block(*args, **kwargs) for block in copies], masks)


class StochasticNet(nn.Module):
    """The problem's network with a `StochasticBlock` in the place of every searched block.

    Args:
        problem: gives network, quantizers and pinned bits.
        candidates: for each searched block, by module path: the bits of its layers in each copy.
        rows: the row of the masks that weighs a block's copies.
    """

    def __init__(
        self,
        problem: Problem,
        candidates: Mapping[str, Sequence[Mapping[str, LayerBits]]],
        rows: Mapping[str, int],
    ) -> None:
        super().__init__()
        self.qmodel = problem.quantized()
        self.rows = dict(rows)
        self.blocks: dict[str, StochasticBlock] = {}
        for name, qlayer in self.qmodel.qlayers():
            entry = problem.space.lowest()[name]
            if qlayer.layer.block not in candidates:
                release(problem, qlayer, entry)
        for path, options in candidates.items():
            copies = [self._copy(problem, path, option) for option in options]
            self.blocks[path] = StochasticBlock(copies)
            self.qmodel.model = swap_module(self.qmodel.model, path, self.blocks[path])

    def _copy(self, problem: Problem, path: str, bits: Mapping[str, LayerBits]) -> nn.Module:
        block = copy.deepcopy(self.qmodel.model.get_submodule(path))
        for module in block.modules():
            if isinstance(module, QLayer):
                release(problem, module, bits[module.layer.name])
        return block

    def mask(self, masks: Tensor) -> None:
        """Set the masks ``[rows, K]`` for the passes that follow."""
        rows = masks.unbind()
        for path, block in self.blocks.items():
            block.masks = rows[self.rows[path]][: len(block.copies)]

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.qmodel(x)
        return out

    def parts(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """Trainable weights, and trainable quantization ranges."""
        return parts_of(self.qmodel)
