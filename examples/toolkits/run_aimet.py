"""Qualcomm's AIMET: automatic mixed precision, a greedy walk along an accuracy-cost list.

    python run_aimet.py --like 3 --out aimet.json
    python run_aimet.py --hardware bops --like 3 --out aimet-bops.json

It tries every candidate for the weights of every layer (with ``hardware=bops`` for its inputs, too;
else these are at 8 bit), and lowers them one by one, the least harmful first. Its list of steps is
followed until the policy is within the budget. Tried with 2.42.0.
"""

from __future__ import annotations

import tempfile
from itertools import product
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
"""Candidate bits, the first of them to start from."""
IMAGES, VALID = 256, 500
Bits = tuple[int, int]
"""Of weights and of activations."""


def candidate(bits: Bits) -> Any:
    """A candidate as the toolkit writes it: activations, then weights."""
    kind = QuantizationDataType.int
    return (bits[1], kind), (bits[0], kind)


def policy_of(asked: Task, bits: dict[str, Bits]) -> dict[str, Bits]:
    """The bits with the ends at 8, in the order of the layers."""
    ends = {asked.layers[0].name, asked.layers[-1].name}
    return {x.name: (8, 8) if x.name in ends else bits[x.name] for x in asked.layers}


def main() -> None:
    """Search and write the policy."""
    asked = task("size", "bops")
    acts = BITS if asked.setting.target.prices_activations else BITS[:1]
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
            [candidate(bits) for bits in product(BITS, acts)],
            CallbackFunc(score, None),
            CallbackFunc(score, None),
            allowed_accuracy_drop=None,
            results_dir=folder,
            clean_start=True,
            forward_pass_callback=CallbackFunc(forward, None),
            amp_search_algo=AMPSearchAlgo.BruteForce,
        )
    bits = {layer.name: (BITS[0], BITS[0]) for layer in asked.layers}
    for *_, group, ((act, _), (weight, _)) in steps:
        cost = asked.setting.target.cost(asked.layers, Policy(policy_of(asked, bits)))
        if asked.budget.allows(cost):
            break
        # A group are the weights of layers, and what they read.
        names = [str(name).removesuffix(".weight") for name in group.parameter_quantizers]
        bits |= dict.fromkeys(names, (weight, act))
    asked.write("aimet-torch", policy_of(asked, bits), budget=asked.budget.label)


if __name__ == "__main__":
    main()
