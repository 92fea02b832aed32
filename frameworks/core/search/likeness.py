"""How like the float network a policy is, over the calibration images: no labels are needed."""

from __future__ import annotations

import torch

from frameworks.core.evaluation.answered import AnsweredSplit
from frameworks.core.evaluation.evaluate import Evaluator
from frameworks.core.problem import Problem
from frameworks.core.split import TensorSplit


def likeness(problem: Problem, images: int, *, soft: bool = True) -> Evaluator:
    """Scores policies by the float network's answers; any policy, not only those of the space.

    Args:
        problem: it grants the calibration images.
        images: so many of these, at most.
        soft: the loss is the mean KL(float || quantized) in nats; else the accuracy is the share
            of images in percent that both put into the same class.
    """
    given = problem.images[:images]
    labels = torch.zeros(len(given), dtype=torch.long, device=given.device)
    teacher = problem.float_model()
    answered = AnsweredSplit(TensorSplit(given, labels), teacher, soft=soft, keep=True)
    return Evaluator(problem.quantized(), answered, problem.correction, problem.meter)
