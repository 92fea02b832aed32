"""Mixed-precision quantization frameworks under one interface."""

from frameworks.core.budget import Budget, BudgetSpec
from frameworks.core.card import Card
from frameworks.core.contents import (
    Known,
    file_digest,
    files_under,
    folder_state,
    identify_files,
)
from frameworks.core.estimators.derivatives import twice_differentiable
from frameworks.core.estimators.traces import layer_traces
from frameworks.core.evaluation.answered import AnsweredSplit
from frameworks.core.evaluation.distillation import distillation
from frameworks.core.evaluation.divergence import first_nonfinite
from frameworks.core.evaluation.evaluate import Evaluator, Score, measure
from frameworks.core.evaluation.train import Recipe, cross_entropy, fit, train_in
from frameworks.core.framework import Framework, ScoringFramework
from frameworks.core.layers import Layer
from frameworks.core.networks import batchnorm
from frameworks.core.networks.calibrate import Calibration, observe
from frameworks.core.networks.correction import Correction, reestimate_batchnorm
from frameworks.core.networks.meter import Meter, Spent
from frameworks.core.networks.qlayer import QLayer
from frameworks.core.networks.qmodel import QModel
from frameworks.core.networks.taking.account import Accounting, account
from frameworks.core.networks.taking.bake import copied
from frameworks.core.networks.taking.describe import describe
from frameworks.core.networks.taking.take import taken
from frameworks.core.plugins.faults import Origin
from frameworks.core.policy import LayerBits, Policy
from frameworks.core.pricing.measured import MeasuredTable, shape_of
from frameworks.core.pricing.support import supported_space
from frameworks.core.problem import Data, DataForbidden, Problem, placed
from frameworks.core.quantizers.base import Codes, Float, Grid, Quantizer, Scheme, Zero
from frameworks.core.quantizers.kernels import kernels_in_force
from frameworks.core.quantizers.uniform import UniformQuantizer
from frameworks.core.randomness import derive, numpy_rng, seeded, torch_rng
from frameworks.core.registry import (
    Registry,
    UnknownName,
    register,
    register_scheme,
    register_target,
    schemes,
    targets,
)
from frameworks.core.registry import frameworks as registry
from frameworks.core.rounding import apply as rounding
from frameworks.core.search.answers import WrongAnswer, finished, place_of, scored, skipped, solved
from frameworks.core.search.learning import Learning
from frameworks.core.search.sensitivities import Sensitivity, SensitivityFramework, assign
from frameworks.core.search.steering import steer
from frameworks.core.solution import Point, Scores, Solution
from frameworks.core.solvers.limits import InfeasibleBudget
from frameworks.core.solvers.milp import multiple_choice
from frameworks.core.space import Choice, Space
from frameworks.core.split import Split, TensorSplit
from frameworks.core.streaming import DatasetSplit, Room
from frameworks.core.target import SeparableTarget, Target, UnsupportedBits

__all__ = [
    "Accounting",
    "AnsweredSplit",
    "Budget",
    "BudgetSpec",
    "Calibration",
    "Card",
    "Choice",
    "Codes",
    "Correction",
    "Data",
    "DataForbidden",
    "DatasetSplit",
    "Evaluator",
    "Float",
    "Framework",
    "Grid",
    "InfeasibleBudget",
    "Known",
    "Layer",
    "LayerBits",
    "Learning",
    "MeasuredTable",
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
    "Room",
    "Scheme",
    "Score",
    "Scores",
    "ScoringFramework",
    "Sensitivity",
    "SensitivityFramework",
    "SeparableTarget",
    "Solution",
    "Space",
    "Spent",
    "Split",
    "Target",
    "TensorSplit",
    "UniformQuantizer",
    "UnknownName",
    "UnsupportedBits",
    "WrongAnswer",
    "Zero",
    "account",
    "assign",
    "batchnorm",
    "copied",
    "cross_entropy",
    "derive",
    "describe",
    "distillation",
    "file_digest",
    "files_under",
    "finished",
    "first_nonfinite",
    "fit",
    "folder_state",
    "identify_files",
    "kernels_in_force",
    "layer_traces",
    "measure",
    "multiple_choice",
    "numpy_rng",
    "observe",
    "place_of",
    "placed",
    "reestimate_batchnorm",
    "register",
    "register_scheme",
    "register_target",
    "registry",
    "rounding",
    "schemes",
    "scored",
    "seeded",
    "shape_of",
    "skipped",
    "solved",
    "steer",
    "supported_space",
    "taken",
    "targets",
    "torch_rng",
    "train_in",
    "twice_differentiable",
]
