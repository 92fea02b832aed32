"""A single-path super net over bits: one set of weights, one path at a time.

Guo et al., "Single Path One-Shot Neural Architecture Search with Uniform Sampling", arXiv
1904.00420. Every layer has one float weight, which all bits share, and for each (weight,
activation) pair of bits that it may take quantizers of its own, whose ranges are trained. A path is
a policy: the pairs that are active in a pass. What a pass does not use gets no gradient, and an
optimizer that sees none neither decays it nor moves it.

BatchNorm's running statistics are those of no path, so that they are taken anew for each that is
evaluated (`path_evaluator`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import nn

from frameworks.core.evaluation.evaluate import Evaluator
from frameworks.core.networks.correction import Correction, images_at_once
from frameworks.core.networks.qmodel import QModel
from frameworks.core.policy import LayerBits, Policy
from frameworks.core.problem import Problem
from frameworks.core.quantizers.base import Quantizer

Pair = tuple[Quantizer, Quantizer]
"""The quantizers of a layer's weight and of its input."""


class SinglePath(QModel):
    """The problem's network with quantizers for all candidate bits, of which `fix` chooses some.

    Args:
        problem: gives network, quantizers and calibration; its meter watches the super net.
        candidates: the pairs of bits of each layer, by name.
    """

    def __init__(self, problem: Problem, candidates: Mapping[str, Iterable[LayerBits]]) -> None:
        super().__init__(problem.network, problem.layers, problem.scheme, problem.observe())
        problem.meter.watch(self)
        self.pairs: dict[str, dict[LayerBits, Pair]] = {}
        for name, q in self.qlayers():
            bits = dict.fromkeys(candidates[name])
            self.pairs[name] = {b: self._pair(problem, name, b, q.layer.shared) for b in bits}
        every = [
            quantizer for pairs in self.pairs.values() for p in pairs.values() for quantizer in p
        ]
        for quantizer in every:
            quantizer.learn_range()
        self.quantizers = nn.ModuleList(every)
        self.eval()

    def _pair(self, problem: Problem, name: str, bits: LayerBits, shared: str) -> Pair:
        assert isinstance(bits.weight, int)
        act = problem.quantizer(name, "act", bits.act)
        if shared and bits in self.pairs[shared]:  # what is stored once has one range
            return self.pairs[shared][bits][0], act
        return problem.quantizer(name, "weight", bits.weight), act

    def fix(self, policy: Policy) -> QModel:
        """Make a path the active one, for training as for evaluation."""
        for name, q in self.qlayers():
            q.shift = None
            q.use(policy[name], *self.pairs[name][policy[name]])
        return self

    def range_parameters(self) -> list[nn.Parameter]:
        """Steps and clipping values of all candidates, whether active or not."""
        found = {id(p): p for p in self.quantizers.parameters() if p.requires_grad}
        return list(found.values())


def path_evaluator(net: SinglePath, problem: Problem, most: int) -> Evaluator:
    """Scores paths on the search-validation split, BatchNorm's statistics taken anew for each.

    Args:
        net: as it was trained; its weights must not change any more.
        problem: gives the splits and the meter.
        most: training images at most that the statistics are taken of; not more than one pass
            holds, so that no path costs several.
    """
    count = min(most, images_at_once(net.eval(), problem.train.images(2)))
    images = problem.train.subset(count, problem.generator("statistics")).images()
    correction = Correction.of(net, images, "reestimate")
    return Evaluator(net, problem.valid, correction, problem.meter)
