"""Power iteration for the top eigenvalue of each diagonal block of a Hessian.

From v ~ N(0, I), normalised: lambda = v^T H_ii v, v <- H_ii v / ||H_ii v||, until

    |lambda_t - lambda_(t-1)| / (|lambda_(t-1)| + 1e-6) < tolerance

(PyHessian, Yao et al., arXiv 1912.07145; used by HAWQ, Dong et al., arXiv 1905.03696). It finds the
eigenvalue of largest magnitude and keeps its sign. One product with a vector over all blocks would
add the cross terms H_ij v_j, which power iteration cannot average away; so every block has its own
product, all from the same gradient graph, differentiated with respect to that block only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from frameworks.core.estimators.hessian import Graph, Hessian


@dataclass(frozen=True)
class Eigenvalue:
    """The eigenvalue of largest magnitude of one diagonal block, with its sign.

    Attributes:
        value: the last Rayleigh quotient.
        iterations: Hessian-vector products used.
        converged: whether the stopping rule was met within them.
    """

    value: float
    iterations: int
    converged: bool


def power_iteration(
    hessian: Hessian,
    names: Sequence[str],
    generator: torch.Generator,
    *,
    max_iterations: int = 100,
    min_iterations: int = 3,
    tolerance: float = 1e-3,
) -> dict[str, Eigenvalue]:
    """The top eigenvalue of the diagonal block of each named variable.

    Works inside `twice_differentiable`. Blocks that have converged cost nothing any more.
    """
    vectors: dict[str, list[Tensor]] = {}
    found: dict[str, Eigenvalue] = {}
    for iteration in range(1, max_iterations + 1):
        products: dict[str, list[Tensor]] = {}
        for graph in hessian.graphs():
            if not vectors:
                vectors = {name: _start(graph, name, generator) for name in names}
            for name in names:
                if name in found and found[name].converged:
                    continue
                _add(products, name, graph, vectors[name])
        for name, product in products.items():
            value = _dot(vectors[name], product)
            norm = _dot(product, product) ** 0.5
            before = found[name].value if name in found else float("inf")
            still = iteration >= min_iterations and _close(value, before, tolerance)
            found[name] = Eigenvalue(value, iteration, still or norm == 0)
            if norm > 0:
                vectors[name] = [part / norm for part in product]
        if all(found[name].converged for name in names):
            break
    return found


def _close(value: float, before: float, tolerance: float) -> bool:
    return abs(value - before) < tolerance * (abs(before) + 1e-6)


def _start(graph: Graph, name: str, generator: torch.Generator) -> list[Tensor]:
    drawn = [
        torch.randn(v.shape, generator=generator).to(v.device, v.dtype)
        for v in graph.variables[name]
    ]
    norm = _dot(drawn, drawn) ** 0.5
    return [part / norm for part in drawn]


def _add(
    products: dict[str, list[Tensor]], name: str, graph: Graph, vector: Sequence[Tensor]
) -> None:
    """Add a batch's share of ``H_ii v``."""
    parts = [graph.share * part for part in graph.product({name: vector})[name]]
    if name in products:
        parts = [total + part for total, part in zip(products[name], parts, strict=True)]
    products[name] = parts


def _dot(left: Sequence[Tensor], right: Sequence[Tensor]) -> float:
    return sum(float((a * b).sum(dtype=torch.float64)) for a, b in zip(left, right, strict=True))
