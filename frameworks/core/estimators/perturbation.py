"""Quantization errors ``||Q_b(x) - x||_2^2`` of weights and activations by the scheme in use."""

from __future__ import annotations

import torch

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
