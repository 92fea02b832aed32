"""Qualcomm's AIMET: automatic mixed precision, a greedy walk along an accuracy-cost list.

    python run_aimet.py --like 3 --out aimet.json
    python run_aimet.py --hardware bops --like 3 --out aimet-bops.json

The network is prepared as AIMET's guide says: its operations made modules, BatchNorm folded. What
layers write into sums is not quantized, as in this suite. Every candidate is tried for the weights
of every layer and what it reads (as many bits with ``hardware=bops``, as many pairs would take
hours; else 8), and these groups are lowered one by one, the least harmful first. The list of steps,
which is the same for all budgets (``--scores``), is followed until the policy is within the budget.
Tried with 2.42.0.
"""

from __future__ import annotations

import time
from typing import Any

import torch
from aimet_torch.batch_norm_fold import fold_all_batch_norms
from aimet_torch.common.amp.utils import AMPSearchAlgo
from aimet_torch.common.defs import CallbackFunc, QuantizationDataType, QuantScheme
from aimet_torch.mixed_precision import choose_mixed_precision
from aimet_torch.model_preparer import prepare_model
from aimet_torch.quantsim import QuantizationSimModel
from common import Task, task
from torch import nn

from frameworks import measure

BITS = (8, 6, 5, 4, 3, 2)
"""Candidate bits, the first of them to start from."""
IMAGES, VALID = 128, 500
Bits = tuple[int, int]
"""Of weights and of activations."""


def candidates(activations: bool) -> list[Any]:
    """The candidates as the toolkit writes them: activations, then weights."""
    kind = QuantizationDataType.int
    return [((bits if activations else BITS[0], kind), (bits, kind)) for bits in BITS]


def simulated(asked: Task, images: torch.Tensor) -> QuantizationSimModel:
    """The network with AIMET's quantizers."""
    network = prepare_model(asked.network)
    fold_all_batch_norms(network, images[:1].shape)
    sim = QuantizationSimModel(
        network, images[:1], quant_scheme=QuantScheme.post_training_tf_enhanced
    )
    for layer in asked.layers:
        sim.model.get_submodule(layer.name).output_quantizers[0] = None
    return sim


def walk(asked: Task, folder: str) -> list[Any]:
    """AIMET's steps: each sets a group of quantizers to a candidate."""
    images = asked.images(IMAGES)
    valid = asked.ground.splits.valid.subset(VALID, torch.Generator().manual_seed(0))
    sim = simulated(asked, images)

    def forward(model: nn.Module, _: object = None) -> None:
        with torch.no_grad():
            for batch in images.split(64):
                model(batch)

    def score(model: nn.Module, _: object) -> float:
        return measure(model, valid).accuracy

    sim.compute_encodings(forward)
    return choose_mixed_precision(
        sim,
        images[:1],
        candidates(asked.setting.target.prices_activations),
        CallbackFunc(score, None),
        CallbackFunc(score, None),
        allowed_accuracy_drop=None,
        results_dir=folder,
        clean_start=False,
        forward_pass_callback=CallbackFunc(forward, None),
        amp_search_algo=AMPSearchAlgo.BruteForce,
    )


def followed(asked: Task, steps: list[Any]) -> dict[str, Bits]:
    """The first policy along the steps that is within the budget, with the ends at 8 bit.

    Raises:
        ValueError: none is.
    """
    ends = {asked.layers[0].name, asked.layers[-1].name}
    bits = {layer.name: (BITS[0], BITS[0]) for layer in asked.layers}
    for *_, group, ((act, _), (weight, _)) in steps:
        # A group are the weights of layers, and what they read.
        names = [str(name).removesuffix(".weight") for name in group.parameter_quantizers]
        bits |= dict.fromkeys((name for name in names if name not in ends), (weight, act))
        if asked.within(bits):
            return bits
    raise ValueError(f"no step of AIMET's is within {asked.budget.label}")


def main() -> None:
    """Search and write the policy."""
    asked = task("size", "bops")
    began = time.perf_counter()
    with asked.kept() as folder:
        steps = walk(asked, str(folder / asked.setting.target.name))
    bits = followed(asked, steps)
    seconds = round(time.perf_counter() - began, 1)
    notes = {} if asked.scores else {"seconds": seconds}
    asked.write("aimet-torch", bits, budget=asked.budget.label, **notes)


if __name__ == "__main__":
    main()
