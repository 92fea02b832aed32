"""Hutchinson's trace estimator for all diagonal blocks of a Hessian at once.

With z uniform on {-1, 1} (Rademacher), independent over all variables,

    E[z_i^T (Hz)_i] = sum_j E[z_i^T H_ij z_j] = Tr(H_ii),

because E[z_i z_j^T] = 0 for i != j: a single Hessian-vector product serves every layer. The
cross terms add variance and no bias; a diagonal Hessian is exact with one probe. HAWQ-V2 (Dong et
al., arXiv 1911.03852) uses about 50 probes; the stopping rule is that of PyHessian (Yao et al.,
arXiv 1912.07145): the running mean moves by less than ``tolerance`` of its absolute value, here for
every block, and not before ``min_probes``, as one small move happens by luck.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from frameworks.core.estimators.hessian import Graph, Hessian


@dataclass(frozen=True)
class Trace:
    """The estimated trace of one diagonal block, with its sign.

    Attributes:
        value: the mean over probes.
        error: its standard error.
        size: the block's dimension (for activations: per image).
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


def rademacher(like: Tensor, generator: torch.Generator) -> Tensor:
    """A tensor of -1 and 1 of the same shape; the draw does not depend on the device."""
    signs = torch.randint(0, 2, like.shape, generator=generator)
    return (2 * signs - 1).to(like.device, like.dtype)


def hutchinson(
    hessian: Hessian,
    generator: torch.Generator,
    *,
    max_probes: int = 50,
    min_probes: int = 10,
    tolerance: float = 1e-3,
) -> dict[str, Trace]:
    """Estimate the trace of every diagonal block.

    Probes are drawn in rounds of ``min_probes``, so that one gradient graph of a batch serves a
    whole round; each batch has probes of its own. Works inside `twice_differentiable`.

    Args:
        max_probes: stop after this many, converged or not.
        tolerance: relative change of the running mean at which a block has converged.
    """
    draws: dict[str, list[float]] = {}
    sizes: dict[str, int] = {}
    count, converged = 0, False
    while count < max_probes and not converged:
        size = min(min_probes, max_probes - count)
        for graph in hessian.graphs():
            sizes.update(graph.sizes)
            for probe in range(size):
                for name, value in _sample(graph, generator).items():
                    row = draws.setdefault(name, [])
                    row += [0.0] * (count + size - len(row))
                    row[count + probe] += graph.share * value
        count += size
        converged = all(_settled(values, tolerance) for values in draws.values())
    return {name: _summary(values, sizes[name], tolerance) for name, values in draws.items()}


def _sample(graph: Graph, generator: torch.Generator) -> dict[str, float]:
    probe = {
        name: [rademacher(v, generator) for v in tensors]
        for name, tensors in graph.variables.items()
    }
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
