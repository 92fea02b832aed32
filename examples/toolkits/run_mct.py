"""Sony's Model Compression Toolkit: its integer programme over the bits of weights and activations.

    python run_mct.py --like 3 --out mct.json
    python run_mct.py --hardware bops --like 3 --out mct-bops.json

Its sensitivity is the distance of activations between the quantized and the float network. For a
budget of the weights' memory, as ``hardware=size`` prices it, it runs on its IMX500 platform, which
has weights of 2, 4 and 8 bits and activations at 8. For bit operations, its ``bops``, that platform
is given the bits that the protocol has for both; as its search miscounts where a tensor is read
twice (it says so), its limit is lowered until the policy is within the budget. Tried with 2.6.1.
"""

from __future__ import annotations

import copy
import time
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import model_compression_toolkit as mct
import torch
from common import Task, task
from mct_quantizers import PytorchActivationQuantizationHolder
from model_compression_toolkit.core.common.matchers.node_matcher import BaseNodeMatcher
from timm.layers import BatchNormAct2d, Conv2dSame, get_same_padding
from torch import Tensor, nn

from frameworks import Policy

BITS = (8, 6, 5, 4, 3, 2)
"""Of weights and activations, where both are searched."""
IMAGES = 128
TRIES = 5
"""Limits of bit operations, each lower by what the policy of the one before was over the budget."""
MARGIN = 0.98
"""And by this, as a limit is met by steps of bits."""
KERNEL = "kernel_attr"
CONV = "conv"
ACTIVATIONS = ("Add", "ReLU", "ReLU6")
"""Operators whose outputs layers read, but for layers themselves."""


def names_of(layer: str) -> tuple[str, ...]:
    """What the toolkit may call a layer: with a BatchNorm folded in that is named as well, and one
    that `plain` took apart has a name of its own.
    """
    name = layer.replace(".", "_")
    return f"{name}_bn", name, f"{name}_{CONV}_bn", f"{name}_{CONV}"


class Called(BaseNodeMatcher):
    """Matches the node of a layer."""

    def __init__(self, layer: str) -> None:
        self.names = names_of(layer)

    def apply(self, node: Any) -> bool:
        return node.name in self.names


def platform(activations: bool) -> Any:
    """The IMX500, or one that runs all `BITS` with the operators and fusions of the IMX500."""
    found = mct.get_target_platform_capabilities("1.0", "imx500")
    if not activations:
        return found

    def widened(operators: Any) -> Any:
        options = operators.qc_options
        weighted = options and KERNEL in options.base_config.attr_weights_configs_mapping
        if not weighted and operators.name not in ACTIVATIONS:
            return operators
        base = (options or found.default_qco).base_config
        base = base.clone_and_edit(supported_input_activation_n_bits=BITS)
        edits = [{KERNEL: {"weights_n_bits": w}} for w in BITS] if weighted else [{}]
        made = [base.clone_and_edit(edit, activation_n_bits=a) for a in BITS for edit in edits]
        options = type(found.default_qco)(quantization_configurations=made, base_config=made[0])
        return operators.model_copy(update={"qc_options": options})

    return found.model_copy(update={"operator_set": tuple(map(widened, found.operator_set))})


def plain(network: nn.Module, images: Tensor) -> nn.Module:
    """A copy whose padding and activations are modules: torch.fx does not trace timm's own.

    Args:
        network: the float network.
        images: ``[N, C, H, W]``, of the size that paddings are for.
    """
    made = copy.deepcopy(network)
    sizes: dict[str, torch.Size] = {}
    for name, module in made.named_modules():
        if isinstance(module, Conv2dSame):

            def before(module: nn.Module, inputs: tuple[Tensor, ...], name: str = name) -> None:
                sizes[name] = inputs[0].shape[-2:]

            module.register_forward_pre_hook(before)
    with torch.no_grad():
        made(images)
    for name, module in list(made.named_modules()):
        if isinstance(module, Conv2dSame):
            facts = zip(
                sizes[name], module.kernel_size, module.stride, module.dilation, strict=True
            )
            rows, columns = (get_same_padding(*of) for of in facts)
            around = (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2)
            known: nn.Module = nn.Conv2d(
                module.in_channels, module.out_channels, module.kernel_size, module.stride, 0,
                module.dilation, module.groups, module.bias is not None,
            )  # fmt: skip
            parts = {"pad": nn.ZeroPad2d(around), CONV: known}
        elif isinstance(module, BatchNormAct2d):
            known = nn.BatchNorm2d(module.num_features, module.eps, module.momentum)
            parts = {"norm": known, "drop": module.drop, "act": module.act}
        else:
            continue
        known.load_state_dict(module.state_dict())
        made.set_submodule(name, nn.Sequential(OrderedDict(parts)))
    return made.eval()


def read_by(model: nn.Module, images: Tensor) -> dict[str, int]:
    """The bits at which each module's input was quantized, by the module's name.

    What lies between a quantizer and its reader (pooling, flattening) is not quantized again.
    """
    made: dict[int, tuple[Tensor, int]] = {}  # tensors are kept, so that no two have one id
    found: dict[str, int] = {}
    for name, module in model.named_modules():

        def after(
            module: nn.Module, inputs: tuple[Tensor, ...], output: Any, name: str = name
        ) -> None:
            known = made.get(id(inputs[0])) if inputs and isinstance(inputs[0], Tensor) else None
            if known:
                found[name] = known[1]
            if isinstance(module, PytorchActivationQuantizationHolder):
                made[id(output)] = (output, module.activation_holder_quantizer.num_bits)

        module.register_forward_hook(after)
    model(images)
    return found


def lowered(asked: Task) -> dict[str, tuple[int, int]]:
    """The bits at a limit of bit operations whose policy is within the budget.

    Raises:
        ValueError: after `TRIES` limits it still is not.
    """
    limit = asked.budget.limit
    for _ in range(TRIES):
        bits = search(asked, {"bops": limit}, True)
        cost = asked.setting.target.cost(asked.layers, Policy(bits))
        print(f"at {limit:.6g} bops the policy takes {asked.budget.load(cost):.6g}")
        if asked.within(bits):
            return bits
        limit *= MARGIN * asked.budget.limit / asked.budget.load(cost)
    raise ValueError(f"no policy of MCT's is within {asked.budget.label}")


def search(asked: Task, limit: dict[str, float], activations: bool) -> dict[str, tuple[int, int]]:
    """The bits of all layers."""
    images = asked.images(IMAGES)

    def batches() -> Iterator[list[Tensor]]:
        yield from ([batch] for batch in images.split(32))

    widths = mct.core.BitWidthConfig()
    pinned = [Called(layer.name) for layer in (asked.layers[0], asked.layers[-1])]
    widths.set_manual_weights_bit_width(pinned, 8, "weight")
    model, _ = mct.ptq.pytorch_post_training_quantization(
        plain(asked.network, images[:1]),
        representative_data_gen=batches,
        target_resource_utilization=mct.core.ResourceUtilization(**limit),
        core_config=mct.core.CoreConfig(
            mixed_precision_config=mct.core.MixedPrecisionQuantizationConfig(
                num_of_images=len(images)
            ),
            bit_width_config=widths,
        ),
        target_platform_capabilities=platform(activations),
    )
    modules, bits = dict(model.named_modules()), {}
    reads = read_by(model, images[:1])
    for layer in asked.layers:
        name = next(name for name in names_of(layer.name) if name in modules)
        weight = int(modules[name].weights_quantizers["weight"].num_bits)
        bits[layer.name] = (weight, reads.get(name, 8))
    return bits


def main() -> None:
    """Search and write the policy."""
    asked = task("size", "bops")
    activations = asked.setting.target.prices_activations
    began = time.perf_counter()
    if activations:
        bits = lowered(asked)
    else:
        bits = search(asked, {"weights_memory": asked.budget.limit}, False)
    seconds = round(time.perf_counter() - began, 1)
    asked.write("model-compression-toolkit", bits, budget=asked.budget.label, seconds=seconds)


if __name__ == "__main__":
    main()
