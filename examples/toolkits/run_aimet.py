"""Qualcomm's AIMET: automatic mixed precision, a greedy walk along an accuracy-cost list.

    python run_aimet.py --like 3 --out aimet.json

It tries every candidate for the weights of every layer, with activations at 8 bit, and lowers them
one by one, the least harmful first. Its list of steps is followed until the policy is within the
budget of ``hardware=size``. Tried with 2.42.0.
"""

from __future__ import annotations

import tempfile
from typing import Any

import torch
from aimet_torch.common.amp.utils import AMPSearchAlgo
from aimet_torch.common.defs import CallbackFunc, QuantizationDataType, QuantScheme
from aimet_torch.mixed_precision import choose_mixed_precision
from aimet_torch.quantsim import QuantizationSimModel
from common import Task, task
from torch import nn

from frameworks import Policy, measure

BITS = (8, 6, 5, 4, 3, 2)
"""Candidate weight bits, the first of them to start from."""
IMAGES, VALID = 256, 500


def candidate(weight: int) -> Any:
    """A candidate as the toolkit writes it: activations, then weights."""
    kind = QuantizationDataType.int
    return (8, kind), (weight, kind)


def policy_of(asked: Task, bits: dict[str, int]) -> dict[str, tuple[int, int]]:
    """The bits with the ends at 8, in the order of the layers."""
    ends = {asked.layers[0].name, asked.layers[-1].name}
    return {x.name: (8 if x.name in ends else bits[x.name], 8) for x in asked.layers}


def main() -> None:
    """Search and write the policy."""
    asked = task("size")
    images = asked.images(IMAGES)
    valid = asked.ground.splits.valid.subset(VALID, torch.Generator().manual_seed(0))
    sim = QuantizationSimModel(
        asked.network, images[:1], quant_scheme=QuantScheme.post_training_tf_enhanced
    )

    def forward(model: nn.Module, _: object = None) -> None:
        with torch.no_grad():
            for batch in images.split(64):
                model(batch)

    def score(model: nn.Module, _: object) -> float:
        return measure(model, valid).accuracy

    sim.compute_encodings(forward)
    with tempfile.TemporaryDirectory() as folder:
        steps = choose_mixed_precision(
            sim,
            images[:1],
            [candidate(bits) for bits in BITS],
            CallbackFunc(score, None),
            CallbackFunc(score, None),
            allowed_accuracy_drop=None,
            results_dir=folder,
            clean_start=True,
            forward_pass_callback=CallbackFunc(forward, None),
            amp_search_algo=AMPSearchAlgo.BruteForce,
        )
    bits = {layer.name: BITS[0] for layer in asked.layers}
    for *_, group, (_, (weight, _)) in steps:
        cost = asked.setting.target.cost(asked.layers, Policy(policy_of(asked, bits)))
        if asked.budget.allows(cost):
            break
        bits |= {str(name).removesuffix(".weight"): weight for name in group.parameter_quantizers}
    asked.write("aimet-torch", policy_of(asked, bits), budget=asked.budget.label)


if __name__ == "__main__":
    main()
