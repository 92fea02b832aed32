"""Sony's Model Compression Toolkit: its integer programme over weight bits, activations at 8 bit.

    python run_mct.py --like 3 --out mct.json

Its sensitivity is the distance of activations between the quantized and the float network; its
IMX500 platform has weights of 2, 4 and 8 bits. The budget is the weights' memory, as
``hardware=size`` prices it. Tried with 2.6.1.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import model_compression_toolkit as mct
from common import task
from model_compression_toolkit.core.common.matchers.node_matcher import BaseNodeMatcher
from torch import Tensor

IMAGES = 128


def names_of(layer: str) -> tuple[str, str]:
    """What the toolkit calls a layer: with a BatchNorm folded in, that is named as well."""
    name = layer.replace(".", "_")
    return f"{name}_bn", name


class Called(BaseNodeMatcher):
    """Matches the node of a layer."""

    def __init__(self, layer: str) -> None:
        self.names = names_of(layer)

    def apply(self, node: Any) -> bool:
        return node.name in self.names


def main() -> None:
    """Search and write the policy."""
    asked = task("size")
    images = asked.images(IMAGES)

    def batches() -> Iterator[list[Tensor]]:
        yield from ([batch] for batch in images.split(32))

    widths = mct.core.BitWidthConfig()
    pinned = [Called(layer.name) for layer in (asked.layers[0], asked.layers[-1])]
    widths.set_manual_weights_bit_width(pinned, 8, "weight")
    model, _ = mct.ptq.pytorch_post_training_quantization(
        asked.network,
        batches,
        target_resource_utilization=mct.core.ResourceUtilization(weights_memory=asked.budget.limit),
        core_config=mct.core.CoreConfig(
            mixed_precision_config=mct.core.MixedPrecisionQuantizationConfig(num_of_images=IMAGES),
            bit_width_config=widths,
        ),
        target_platform_capabilities=mct.get_target_platform_capabilities("1.0", "imx500"),
    )
    found = dict(model.named_modules())
    bits = {}
    for layer in asked.layers:
        module = next(found[name] for name in names_of(layer.name) if name in found)
        bits[layer.name] = (int(module.weights_quantizers["weight"].num_bits), 8)
    asked.write("model-compression-toolkit", bits, budget=asked.budget.label)


if __name__ == "__main__":
    main()
