"""Hutchinson's trace estimator for the diagonal blocks of a Hessian.

With z_i uniform on {-1, 1} (Rademacher), E[z_i^T H_ii z_i] = Tr(H_ii); a diagonal block is exact
with one probe. HAWQ-V2 (Dong et al., arXiv 1911.03852) uses about 50 probes; the stopping rule is
that of PyHessian (Yao et al., arXiv 1912.07145): the running mean moves by less than ``tolerance``
of its absolute value, here for every block at once and not before ``min_probes``, as one small
move happens by luck.

Two ways, one gradient graph of a batch serving either:

- each block has a product of its own, differentiated with respect to that block only: variance
  2 sum_{k != l in i} H_kl^2;
- ``joint``: one product with independent probes over all blocks serves them all, as
  E[z_i^T (Hz)_i] = sum_j E[z_i^T H_ij z_j] = Tr(H_ii), but the cross terms add
  sum_{k in i, l not in i} H_kl^2 to the variance.

Measured on ResNet-8, ResNet-20 and a MobileNetV2: a joint probe takes 2.5 to 8 times less time and
has 5 to 50 times the variance (median over the layers; up to 490 times). So the default is apart.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from frameworks.core.estimators.hessian import Graph, Hessian
from frameworks.core.estimators.signs import Signs


@dataclass(frozen=True)
class Trace:
    """The estimated trace of one diagonal block, with its sign.

    Attributes:
        value: the mean over probes.
        error: its standard error; infinite for a single probe.
        size: the block's dimension (for activations: of one image).
        probes: how many probes were drawn.
        converged: whether the stopping rule was met within them.
    """

    value: float
    error: float
    size: int
    probes: int
    converged: bool

    @property
    def average(self) -> float:
        """The mean eigenvalue, Tr / n."""
        return self.value / self.size


def hutchinson(
    hessian: Hessian,
    generator: torch.Generator,
    *,
    max_probes: int = 50,
    min_probes: int = 10,
    tolerance: float = 1e-3,
    joint: bool = False,
    base: Mapping[str, float] | None = None,
) -> dict[str, Trace]:
    """Estimate the trace of every diagonal block, inside `frameworks.twice_differentiable`.

    Probes are drawn in rounds of ``min_probes``, so that one gradient graph serves a whole round;
    each batch has probes of its own, however it is cut into portions.

    Args:
        max_probes: stop after this many, converged or not.
        tolerance: relative change of the running means at which the estimate has converged.
        joint: one product for all blocks (see the module's text).
        base: a known part of each block's trace, to which the estimate is added.
    """
    signs = Signs(generator)
    draws: dict[str, list[float]] = {}
    totals: dict[str, list[float]] = {}
    known = base or {}
    sizes: dict[str, int] = {}
    count, converged = 0, False
    while count < max_probes and not converged:
        size = min(min_probes, max_probes - count)
        for graph in hessian.graphs():
            sizes.update(graph.sizes)
            names = list(graph.variables)
            for probe in range(count, count + size):
                for together in [names] if joint else [[name] for name in names]:
                    for name, value in _sample(hessian, graph, together, signs, probe).items():
                        row = draws.setdefault(name, [])
                        row += [0.0] * (probe + 1 - len(row))
                        row[probe] += graph.share * value
            del graph  # before the next one is made
        count += size
        totals = {name: [known.get(name, 0.0) + v for v in row] for name, row in draws.items()}
        converged = all(_settled(values, tolerance) for values in totals.values())
    return {name: _summary(values, sizes[name], tolerance) for name, values in totals.items()}


def _sample(
    hessian: Hessian, graph: Graph, names: Sequence[str], signs: Signs, number: int
) -> dict[str, float]:
    probe = hessian.draw(graph, names, signs, number)
    return {
        name: sum(
            float((z * hz).sum(dtype=torch.float64))
            for z, hz in zip(probe[name], product, strict=True)
        )
        for name, product in graph.product(probe).items()
    }


def _summary(values: Sequence[float], size: int, tolerance: float) -> Trace:
    return Trace(
        value=math.fsum(values) / len(values),
        error=_standard_error(values),
        size=size,
        probes=len(values),
        converged=_settled(values, tolerance),
    )


def _settled(values: Sequence[float], tolerance: float) -> bool:
    """Whether the last draw moved the running mean by less than ``tolerance`` of its size."""
    if len(values) < 2:
        return False
    before = math.fsum(values[:-1]) / (len(values) - 1)
    after = math.fsum(values) / len(values)
    return abs(after - before) / (abs(before) + 1e-6) < tolerance


def _standard_error(values: Sequence[float]) -> float:
    if len(values) < 2:
        return math.inf
    mean = math.fsum(values) / len(values)
    variance = math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1)
    return math.sqrt(variance / len(values))
