"""BP-NAS's super net: every layer at all of its pairs of bits at once, with one weight for all.

A layer's output is the sum of its candidates' outputs, weighed by their probabilities,

    y = sum_k p_k f(Q_{a_k}(x), Q_{w_k}(W)).

A layer is linear in its weight, so that the candidates of equal activation bits are one pass with
the mean of their weights: there are as many passes as different activation bits, and the sum is the
same. All layers of a decision have its probabilities.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from frameworks.core.networks.qlayer import QLayer, run_layer
from frameworks.core.networks.standin import LayerStandIn
from frameworks.core.networks.taking.bake import raw_weight
from frameworks.core.networks.taking.hooks import take_hooks
from frameworks.core.networks.taking.take import replaced
from frameworks.core.policy import LayerBits
from frameworks.core.problem import Problem
from frameworks.core.quantizers.base import Quantizer
from frameworks.core.quantizers.composite import Composite
from frameworks.core.supernets.decisions import Decision
from frameworks.core.supernets.supernet import parts_of, release

SMALLEST_SHARE = 1e-12


class PairLayer(LayerStandIn):
    """A layer at several pairs of bits; the probabilities ``p`` are set by the network.

    Args:
        inner: the float layer.
        weights: the weight quantizer of each candidate; candidates of equal bits have the same.
        acts: of its input, likewise.
    """

    def __init__(
        self, inner: nn.Module, weights: Sequence[Quantizer], acts: Sequence[Quantizer]
    ) -> None:
        super().__init__()
        self.inner = inner
        self.groups = [[k for k, q in enumerate(acts) if q is act] for act in dict.fromkeys(acts)]
        self.acts = nn.ModuleList(dict.fromkeys(acts))
        self.weights = nn.ModuleList(
            Composite([weights[k] for k in group]) if len(group) > 1 else weights[group[0]]
            for group in self.groups
        )
        self.p: Tensor | None = None
        for quantizer in (*weights, *acts):
            quantizer.learn_range()

    def parts(self) -> list[tuple[Tensor, Tensor]]:
        """Of each of the activation bits: their probability, and the mean of their weights."""
        assert self.p is not None
        raw, found = raw_weight(self.inner), []
        for group, quantizer in zip(self.groups, self.weights, strict=True):
            shares = self.p[group]
            total = shares.sum()
            within = shares / total.clamp_min(SMALLEST_SHARE)
            found.append((total, quantizer(raw, within) if len(group) > 1 else quantizer(raw)))
        return found

    def present_weight(self) -> Tensor:
        weights = [share * weight for share, weight in self.parts()]
        return torch.stack(weights).sum(0)

    def forward(self, x: Tensor) -> Tensor:
        outputs = [
            share * run_layer(self.inner, act(x), weight)
            for (share, weight), act in zip(self.parts(), self.acts, strict=True)
        ]
        return outputs[0] if len(outputs) == 1 else torch.stack(outputs).sum(0)


class PairNet(nn.Module):
    """The problem's network with a `PairLayer` for every layer of a decision.

    Call it with the images after `mix`.

    Args:
        problem: gives network and quantizers.
        decisions: from `frameworks.core.supernets.decisions.block_decisions`.
    """

    def __init__(self, problem: Problem, decisions: Sequence[Decision]) -> None:
        super().__init__()
        self.qmodel = problem.quantized()
        rows = {name: i for i, decision in enumerate(decisions) for name in decision.options[0]}
        self.layers: list[list[PairLayer]] = [[] for _ in decisions]
        pinned = problem.space.lowest()
        for name, qlayer in list(self.qmodel.qlayers()):
            if name not in rows or len(decisions[rows[name]].options) == 1:
                bits = decisions[rows[name]].options[0][name] if name in rows else pinned[name]
                release(problem, qlayer, bits)
                continue
            pairs = [option[name] for option in decisions[rows[name]].options]
            layer = self._layer(problem, qlayer, pairs)
            take_hooks(layer, qlayer)
            self.qmodel.model = replaced(self.qmodel.model, qlayer, layer)
            self.layers[rows[name]].append(layer)

    @staticmethod
    def _layer(problem: Problem, qlayer: QLayer, pairs: Sequence[LayerBits]) -> PairLayer:
        name, weights, acts = qlayer.layer.name, dict[int, Quantizer](), dict[int, Quantizer]()
        for bits in pairs:
            assert isinstance(bits.weight, int)
            weights.setdefault(bits.weight, problem.quantizer(name, "weight", bits.weight))
            acts.setdefault(bits.act, problem.quantizer(name, "act", bits.act))
        of_weight = [weights[bits.weight] for bits in pairs if isinstance(bits.weight, int)]
        return PairLayer(qlayer.inner, of_weight, [acts[bits.act] for bits in pairs])

    def mix(self, p: Tensor) -> None:
        """Set the probabilities ``[decisions, K]`` for the passes that follow."""
        for row, layers in zip(p.unbind(), self.layers, strict=True):
            for layer in layers:
                layer.p = row

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.qmodel(x)
        return out

    def parts(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """Trainable weights, and trainable quantization ranges."""
        return parts_of(self.qmodel)

    def stored(self) -> list[nn.Module]:
        """The float layers of all quantized ones; of those that store one weight, the last."""
        layers = [m.inner for m in self.modules() if isinstance(m, PairLayer | QLayer)]
        return list({id(layer.weight): layer for layer in layers}.values())
