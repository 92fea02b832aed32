"""NVIDIA's Model Optimizer: `auto_quantize`, a linear programme over gradient-based sensitivities.

    python run_modelopt.py --like 3 --out modelopt.json

Formats are weights of 2 to 8 bits per output channel, activations at 8 bit. The budget is
``effective_bits``, the mean weight bits of the layers searched, at which the weights take what
``hardware=size`` allows. Tried with 0.47.0.
"""

from __future__ import annotations

from typing import Any

import modelopt.torch.quantization as mtq
import torch
from common import task
from torch import nn

BITS = (2, 3, 4, 5, 6, 8)
IMAGES = 512


def weights_of(bits: int) -> dict[str, Any]:
    """A format: integer weights per output channel, 8-bit activations per tensor."""
    return {
        "quant_cfg": [
            {"quantizer_name": "*", "enable": False},
            {"quantizer_name": "*weight_quantizer", "cfg": {"num_bits": bits, "axis": 0}},
            {"quantizer_name": "*input_quantizer", "cfg": {"num_bits": 8, "axis": None}},
        ],
        "algorithm": "max",
    }


def main() -> None:
    """Search and write the policy."""
    asked = task("size")
    first, *searched, last = asked.layers
    spent = sum(layer.stored for layer in (first, last))  # bytes: they are pinned at 8 bit
    mean = 8 * (asked.budget.limit - spent) / sum(layer.stored for layer in searched)
    train = asked.ground.splits.train.subset(IMAGES, torch.Generator().manual_seed(0))
    model, _ = mtq.auto_quantize(
        asked.network,
        constraints={"effective_bits": mean},
        quantization_formats=[weights_of(bits) for bits in BITS],
        data_loader=list(train.batches(32)),
        forward_step=lambda model, batch: model(batch[0]),
        loss_func=lambda output, batch: nn.functional.cross_entropy(output, batch[1]),
        num_calib_steps=IMAGES // 32,
        num_score_steps=IMAGES // 32,
        disabled_layers=[first.name, last.name],
    )
    bits = {layer.name: (8, 8) for layer in asked.layers}
    for layer in searched:
        quantizer = model.get_submodule(layer.name).weight_quantizer
        bits[layer.name] = (int(quantizer.num_bits) if quantizer.is_enabled else 32, 8)
    asked.write("nvidia-modelopt", bits, budget=asked.budget.label)


if __name__ == "__main__":
    main()
