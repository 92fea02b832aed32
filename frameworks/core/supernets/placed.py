"""A network with a method's own quantizer for every tensor whose bits are to be chosen.

Methods that learn bits by gradients differ in what stands at a tensor (gates, fractional bits, bit
planes, learned ranges), not in where it stands: at the weight and at the input of every layer with
a free choice. Layers of one shared weight have one quantizer for it; what a method learns once for
tied layers, it keeps by the row of the choice (`Spot.row`). Pinned tensors have the protocol's
quantizers, and their ranges are trained.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from frameworks.core.layers import Layer
from frameworks.core.networks.qlayer import QLayer
from frameworks.core.networks.taking.bake import raw_weight
from frameworks.core.policy import LayerBits, Policy
from frameworks.core.problem import Problem
from frameworks.core.quantizers.base import Quantizer
from frameworks.core.space import Space
from frameworks.core.supernets.relaxations import choice_rows

TensorKind = Literal["weight", "act"]


@dataclass(frozen=True, eq=False)
class Spot:
    """A tensor whose bits are to be chosen.

    Attributes:
        layer: the layer whose weight or input it is.
        kind: which of the two.
        row: the position of the decision in `frameworks.core.space.Space.choices`.
        bits: the candidates, ascending, at least two.
        tensor: the pretrained weight, or a one-dimensional sample of the input activations;
            without gradient.
    """

    layer: Layer
    kind: TensorKind
    row: int
    bits: tuple[int, ...]
    tensor: Tensor

    @property
    def signed(self) -> bool:
        """Whether the tensor has negative values; weights count as having some."""
        return self.kind == "weight" or bool(self.tensor.min() < 0)


class PlacedNet:
    """The problem's network with a quantizer of the method's own at every spot.

    Call ``qmodel`` with the images; it is in eval mode at first.

    Args:
        problem: gives network, space and the quantizers of pinned tensors.
        make: makes the quantizer of a spot. It may return one for several spots, or None for the
            protocol's quantizer at the spot's most bits.
    """

    def __init__(self, problem: Problem, make: Callable[[Spot], Quantizer | None]) -> None:
        self.problem = problem
        self.qmodel = problem.quantized()
        self.spots: dict[tuple[str, TensorKind], Spot] = {}
        self.quantizers: dict[tuple[str, TensorKind], Quantizer] = {}
        rows = choice_rows(problem.space)
        for name, qlayer in self.qmodel.qlayers():
            bits = LayerBits(problem.space.weight_bits[name][-1], problem.space.act_bits[name][-1])
            weight = self._put(qlayer, "weight", rows[name][0], make)
            qlayer.use(bits, weight, self._put(qlayer, "act", rows[name][1], make))

    def _put(
        self,
        qlayer: QLayer,
        kind: TensorKind,
        row: int | None,
        make: Callable[[Spot], Quantizer | None],
    ) -> Quantizer:
        layer, space = qlayer.layer, self.problem.space
        if kind == "weight" and layer.shared:
            source = self.qmodel.qlayer(layer.shared).weight_quantizer
            if row is not None:
                self.spots[layer.name, kind] = self.spots[layer.shared, kind]
                self.quantizers[layer.name, kind] = source
            return source
        bits = (space.weight_bits if kind == "weight" else space.act_bits)[layer.name]
        made = None
        if row is not None:
            spot = Spot(layer, kind, row, bits, self._tensor(qlayer, kind))
            made = make(spot)
        quantizer = made or self.problem.quantizer(layer.name, kind, bits[-1])
        quantizer.to(self.problem.device).learn_range()
        if row is not None and made is not None:
            self.spots[layer.name, kind], self.quantizers[layer.name, kind] = spot, made
        return quantizer

    def _tensor(self, qlayer: QLayer, kind: TensorKind) -> Tensor:
        if kind == "weight":
            return raw_weight(qlayer.inner).detach()
        return self.problem.observe().samples[qlayer.layer.name].detach()

    def ranges_beside(self, learned: Iterable[nn.Parameter]) -> list[nn.Parameter]:
        """The trained parameters of all quantizers but those that a method has learn by itself."""
        known = {id(p) for p in learned}
        return [p for p in self.qmodel.range_parameters() if id(p) not in known]

    def weights_at(self, bits: Callable[[Quantizer], int], acts: Mapping[str, int]) -> Policy:
        """The policy of the weight bits that the placed quantizers stand at, as by `raised`.

        Args:
            bits: of a weight's quantizer.
            acts: activation bits by layer; where bits are paired, they follow the weights.
        """
        weights = {spot.layer.name: bits(quantizer) for spot, quantizer in self.placed("weight")}
        space = self.problem.space
        return raised(space, weights, {} if space.paired else acts)

    def placed(self, kind: TensorKind) -> Iterator[tuple[Spot, Quantizer]]:
        """The spots of a kind with their quantizers, in execution order; a shared weight once."""
        for (name, each), spot in self.spots.items():
            if each == kind and spot.layer.name == name:
                yield spot, self.quantizers[name, each]


def raised(space: Space, weight: Mapping[str, int], act: Mapping[str, int]) -> Policy:
    """The policy of the fewest candidate bits that are no fewer than wanted, per layer.

    Layers that decide together get the most that any of them wants; in a paired space that
    includes both kinds. Where no candidate has as many, it is the most bits there are.

    Args:
        space: with the candidates.
        weight: wanted weight bits by layer; a layer that is not named wants its fewest.
        act: wanted activation bits by layer, likewise.
    """
    values = []
    for choice in space.choices:
        kinds = {"weight": (weight,), "act": (act,), "both": (weight, act)}[choice.kind]
        wanted = [table.get(name, choice.bits[0]) for table in kinds for name in choice.layers]
        enough = [bits for bits in choice.bits if bits >= max(wanted)]
        values.append(enough[0] if enough else choice.bits[-1])
    return space.decode(values)
