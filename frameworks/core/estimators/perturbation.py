"""Second-order perturbations: mean curvature times squared quantization error.

For a layer with weights W and, of one image, input activations a (HAWQ-V2, Dong et al., arXiv
1911.03852), errors by the scheme in use and expectations over images,

    Omega(w, a) = Tr(H_W) / n_W * ||Q_w(W) - W||_2^2 + E[Tr(H_a)] / n_a * E||Q_a(a) - a||_2^2.

Traces may come out negative, as a trained network is not quite at a minimum of the loss: scores
keep the sign, and the magnitude weighs the errors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from frameworks.core.estimators.derivatives import twice_differentiable
from frameworks.core.estimators.traces import Traces, layer_traces
from frameworks.core.problem import Problem


@torch.no_grad()
def weight_error(problem: Problem, name: str, bits: int) -> float:
    """``||Q_b(W) - W||_2^2`` of a layer's pretrained weights."""
    weight = problem.network.get_submodule(name).get_parameter("weight")
    return float((problem.quantizer(name, "weight", bits)(weight) - weight).square().sum())


@torch.no_grad()
def activation_error(problem: Problem, name: str, bits: int) -> float:
    """Mean squared error of one input activation of a layer, over the calibration images.

    Times the elements of an input it is ``E||Q_b(a) - a||_2^2`` of one image.
    """
    sample = problem.observe().samples[name]
    return float((problem.quantizer(name, "act", bits)(sample) - sample).square().mean())


def second_order_scores(
    problem: Problem,
    *,
    weights: Sequence[str],
    inputs: Sequence[str],
    images: int,
    batch: int,
    probes: int,
    tolerance: float,
) -> dict[str, Any]:
    """What Omega is made of, as plain data: mean traces and squared errors by layer.

    Args:
        weights: layers whose weights have a trace.
        inputs: layers whose input activations have one.
        images: training images behind the Hessian.
        batch: images that share their probes' signs; how many go through the network together is
            for the memory to say.
        probes: at most this many backward passes, and Hutchinson probes, of each image.
        tolerance: relative change of the running mean at which the estimate stops earlier.
    """
    split = problem.train.subset(images, problem.generator("hessian"))
    model = problem.float_model()
    with twice_differentiable(model):
        problem.progress(0, 1, "Hessian traces of weights and activations")
        traces = layer_traces(
            model,
            list(split.batches(batch)),
            problem.generator("probes"),
            weights=weights,
            inputs=inputs,
            max_probes=probes,
            min_probes=min(10, probes),
            tolerance=tolerance,
        )
    return _scores(problem, traces)


def _scores(problem: Problem, traces: Traces) -> dict[str, Any]:
    space, weights, activations = problem.space, traces.weights, traces.inputs
    return {
        "weight_trace": {name: trace.average for name, trace in weights.items()},
        "weight_error": {
            name: {str(b): weight_error(problem, name, b) for b in space.weight_bits[name]}
            for name in weights
        },
        "act_trace": {name: trace.average for name, trace in activations.items()},
        "act_error": {
            name: {
                str(b): trace.size * activation_error(problem, name, b)
                for b in space.act_bits[name]
            }
            for name, trace in activations.items()
        },
        "relative_error": {
            kind: {n: t.error / max(abs(t.value), 1e-30) for n, t in traces.items()}
            for kind, traces in (("weight", weights), ("act", activations))
        },
        "probes": {n: t.probes for n, t in weights.items()},
    }


def sensitivity(scores: Mapping[str, Any], name: str, weight: int, act: int) -> float:
    """Omega of a layer at a pair of bits, never negative.

    A layer or activation without scores has none; of a negative trace the magnitude counts.
    """
    total = 0.0
    for kind, bits in (("weight", weight), ("act", act)):
        trace = scores[f"{kind}_trace"].get(name)
        if trace is not None:
            total += abs(trace) * scores[f"{kind}_error"][name][str(bits)]
    return total
