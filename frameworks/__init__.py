"""Mixed-precision quantization frameworks under one interface."""

from frameworks.core.budget import Budget, BudgetSpec, InfeasibleBudget
from frameworks.core.calibrate import Calibration, observe, reestimate_batchnorm
from frameworks.core.card import Card
from frameworks.core.evaluate import Score, measure
from frameworks.core.framework import Framework, ScoringFramework
from frameworks.core.layers import Layer, describe
from frameworks.core.meter import Meter, Spent
from frameworks.core.policy import LayerBits, Policy
from frameworks.core.problem import Data, DataForbidden, Problem
from frameworks.core.qmodel import QLayer, QModel
from frameworks.core.quantizers.base import Codes, Float, Grid, Quantizer, Scheme, Zero
from frameworks.core.quantizers.uniform import UniformQuantizer
from frameworks.core.randomness import derive, numpy_rng, seeded, torch_rng
from frameworks.core.registry import (
    Origin,
    Registry,
    UnknownName,
    register,
    register_scheme,
    register_target,
    schemes,
    targets,
)
from frameworks.core.registry import frameworks as registry
from frameworks.core.solution import Point, Scores, Solution
from frameworks.core.space import Choice, Space
from frameworks.core.split import DatasetSplit, Split, TensorSplit
from frameworks.core.steering import steer
from frameworks.core.target import SeparableTarget, Target
from frameworks.core.train import Recipe, fit

__all__ = [
    "Budget",
    "BudgetSpec",
    "Calibration",
    "Card",
    "Choice",
    "Codes",
    "Data",
    "DataForbidden",
    "DatasetSplit",
    "Float",
    "Framework",
    "Grid",
    "InfeasibleBudget",
    "Layer",
    "LayerBits",
    "Meter",
    "Origin",
    "Point",
    "Policy",
    "Problem",
    "QLayer",
    "QModel",
    "Quantizer",
    "Recipe",
    "Registry",
    "Scheme",
    "Score",
    "Scores",
    "ScoringFramework",
    "SeparableTarget",
    "Solution",
    "Space",
    "Spent",
    "Split",
    "Target",
    "TensorSplit",
    "UniformQuantizer",
    "UnknownName",
    "Zero",
    "derive",
    "describe",
    "fit",
    "measure",
    "numpy_rng",
    "observe",
    "reestimate_batchnorm",
    "register",
    "register_scheme",
    "register_target",
    "registry",
    "schemes",
    "seeded",
    "steer",
    "targets",
    "torch_rng",
]
