"""Qualcomm's AIMET: automatic mixed precision, a greedy walk along an accuracy-cost list.

    python run_aimet.py --like 3 --out aimet.json

It tries every candidate for every group of quantizers (weights of the layers that read a tensor,
and that tensor), and lowers them one by one, the least harmful first. Its list of steps is followed
until the policy is within the budget of ``hardware=bops``. Tried with 2.42.0.
"""

from __future__ import annotations

import tempfile
from typing import Any

import torch
from aimet_torch.common.defs import CallbackFunc, QuantizationDataType, QuantScheme
from aimet_torch.mixed_precision import choose_mixed_precision
from aimet_torch.quantsim import QuantizationSimModel
from common import Task, task
from torch import nn

from frameworks import Policy, measure

BITS = ((8, 8), (6, 6), (4, 8), (8, 4), (4, 4), (3, 3), (2, 2))
"""Candidates: weight and activation bits, the first of them to start from."""
IMAGES, VALID = 512, 1000


def candidate(weight: int, act: int) -> Any:
    """A candidate as the toolkit writes it: activations, then weights."""
    kind = QuantizationDataType.int
    return (act, kind), (weight, kind)


def pinned(asked: Task, bits: dict[str, tuple[int, int]]) -> dict[str, tuple[int, int]]:
    """The bits with the ends at 8, in the order of the layers."""
    ends = {asked.layers[0].name, asked.layers[-1].name}
    return {x.name: (8, 8) if x.name in ends else bits[x.name] for x in asked.layers}


def main() -> None:
    """Search and write the policy."""
    asked = task("bops")
    images = asked.images(IMAGES)
    valid = asked.ground.splits.valid.subset(VALID, torch.Generator().manual_seed(0))
    sim = QuantizationSimModel(
        asked.network, images[:1], quant_scheme=QuantScheme.post_training_tf_enhanced
    )

    def forward(model: nn.Module, _: object = None) -> None:
        with torch.no_grad():
            for batch in images.split(64):
                model(batch)

    score = CallbackFunc(lambda model, _: measure(model, valid).accuracy, None)
    with tempfile.TemporaryDirectory() as folder:
        steps = choose_mixed_precision(
            sim,
            images[:1],
            [candidate(*pair) for pair in BITS],
            score,
            score,
            allowed_accuracy_drop=None,
            results_dir=folder,
            clean_start=True,
            forward_pass_callback=CallbackFunc(forward, None),
        )
    bits = dict.fromkeys((layer.name for layer in asked.layers), BITS[0])
    for *_, group, ((act, _kind), (weight, _same)) in steps:
        if asked.budget.allows(
            asked.setting.target.cost(asked.layers, Policy(pinned(asked, bits)))
        ):
            break
        for name in group.parameter_quantizers:
            layer = str(name).rpartition(".weight")[0] or str(name)
            bits[layer] = (weight, act)
    asked.write("aimet-torch", pinned(asked, bits), budget=asked.budget.label)


if __name__ == "__main__":
    main()
