"""Our float network made ready for quantization-aware training at 4 bits by other libraries.

Each function takes the float network and a batch, and gives the network that the peer would train,
built from what it offers for that; `PEERS` says how its step differs from ours. They install beside
this package, and in an environment of their own, if need be, whose rows then join the page:

    python3 -m venv .venv-peers
    .venv-peers/bin/pip install -c constraints.txt '.[perf,peers,qat-peers]'
    .venv-peers/bin/python -m benchmarks.studies.performance --add \\
        --select "brevitas or nncf or torchao"
"""

import dataclasses
import importlib
import importlib.metadata
import os
from collections.abc import Callable

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

INSTALL = "pip install -c constraints.txt '.[perf,peers,qat-peers]'"
BITS = 4


@dataclasses.dataclass(frozen=True)
class Peer:
    """Another library's quantization-aware training.

    Attributes:
        convert: a float network and a batch to the peer's network.
        module: what it needs; the first part is the distribution whose version is named.
        difference: from our own step, in words.
        learned: whether gradients reach the steps.
    """

    convert: Callable[[nn.Module, torch.Tensor], nn.Module]
    module: str
    difference: str
    learned: bool = True

    def missing(self):
        """Why the peer cannot be measured here; empty where it can."""
        try:
            importlib.import_module(self.module)
        except ImportError as error:
            return f"{self.module} cannot be imported ({error}); {INSTALL}"
        return ""

    def note(self):
        package = self.module.partition(".")[0]
        return f"{package} {importlib.metadata.version(package)}: {self.difference}"


class Operands(TorchDispatchMode):
    """Collects the inputs and weights that convolutions and products get, whoever calls them."""

    def __init__(self):
        super().__init__()
        self.pairs = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.convolution.default:
            self.pairs.append(args[:2])
        elif func is torch.ops.aten.addmm.default:
            self.pairs.append((args[1], args[2].t()))
        return func(*args, **(kwargs or {}))


def check(model, x, layers, levels=2**BITS):
    """The model multiplies in so many layers, by few values in each input and output channel.

    Raises:
        AssertionError: another number of layers, or more values.
    """
    operands = Operands()
    with operands, torch.no_grad():
        model(x)
    assert len(operands.pairs) == layers, f"{len(operands.pairs)} products, not {layers}"
    for i, (given, weight) in enumerate(operands.pairs):
        inputs, most = len(given.unique()), max(len(row.unique()) for row in weight)
        assert 1 < inputs <= levels, f"the input of layer {i} has {inputs} values"
        assert 1 < most <= levels, f"a channel of the weight of layer {i} has {most} values"


def swapped(model, make):
    """The model with each convolution and linear layer replaced by ``make(layer, is_first)``."""
    for name, layer in list(model.named_modules()):
        if isinstance(layer, nn.Conv2d | nn.Linear):
            parent, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(parent), leaf, make(layer, name == "conv1"))
    return model


class NativeQuantized(nn.Module):
    """A layer quantized by torch's own operators with learned steps, as its QAT does."""

    def __init__(self, inner, first):
        super().__init__()
        self.inner, self.low, self.high = inner, -8 if first else 0, 7 if first else 15
        self.step = nn.Parameter(torch.full((1,), 0.3))
        self.zero = torch.zeros(1)
        reach = inner.weight.detach().flatten(1).abs().amax(1)
        self.weight_step, self.weight_zero = nn.Parameter(reach / 7), torch.zeros_like(reach)

    def forward(self, x):
        x = torch._fake_quantize_learnable_per_tensor_affine(
            x, self.step, self.zero, self.low, self.high, (x.numel() * self.high) ** -0.5
        )
        raw = self.inner.weight
        scale = (raw[0].numel() * 7) ** -0.5
        weight = torch._fake_quantize_learnable_per_channel_affine(
            raw, self.weight_step, self.weight_zero, 0, -8, 7, scale
        )
        if isinstance(self.inner, nn.Linear):
            return nn.functional.linear(x, weight, self.inner.bias)
        return self.inner._conv_forward(x, weight, self.inner.bias)


def native(model, x):
    """torch's operators for learned steps in a module of ours, one for each layer."""
    return swapped(model, NativeQuantized)


def brevitas_layer(inner, first):
    """A convolution (without bias) or linear layer (with it) as Brevitas's own, same weights."""
    qnn = importlib.import_module("brevitas.nn")
    quant = importlib.import_module("brevitas.quant")
    options = {
        "weight_bit_width": BITS,
        "weight_quant": quant.Int8WeightPerChannelFloat,
        "weight_scaling_impl_type": "parameter_from_stats",
        "input_quant": quant.Int8ActPerTensorFloat if first else quant.Uint8ActPerTensorFloat,
        "input_bit_width": BITS,
        "input_collect_stats_steps": 1,
    }
    if isinstance(inner, nn.Linear):
        made = qnn.QuantLinear(inner.in_features, inner.out_features, bias=True, **options)
    else:
        made = qnn.QuantConv2d(
            inner.in_channels, inner.out_channels, inner.kernel_size, inner.stride, inner.padding,
            bias=False, **options,
        )  # fmt: skip
    made.load_state_dict(inner.state_dict(), strict=False)
    return made.to(memory_format=torch.channels_last)


def brevitas(model, x):
    """Brevitas's layers with its usual integer quantizers; the weights' steps are learned, too."""
    return swapped(model, brevitas_layer)


def nncf(model, x):
    """NNCF's post-training quantization, whose result it trains on, steps included.

    Of its target devices the NPU alone admits 4 bits, and not for the global mean, which is left
    out. Without its C++ extension it would compose operations, which would be no fair row.
    """
    os.environ.setdefault("NNCF_CI", "1")  # no telemetry
    os.environ.setdefault("NNCF_EXTENSION_LOAD_TIMEOUT", "0")
    nncf = importlib.import_module("nncf")
    advanced = importlib.import_module("nncf.quantization.advanced_parameters")
    made = nncf.quantize(
        model,
        nncf.Dataset([x]),
        target_device=nncf.TargetDevice.NPU,
        ignored_scope=nncf.IgnoredScope(types=["mean"]),
        advanced_parameters=advanced.AdvancedQuantizationParameters(
            disable_bias_correction=True,
            activations_quantization_params=advanced.QuantizationParameters(num_bits=BITS),
            weights_quantization_params=advanced.QuantizationParameters(BITS, per_channel=True),
        ),
    )
    extensions = importlib.import_module("nncf.torch.quantization.extensions")
    kernel = extensions.QuantizedFunctionsCPU.get("Quantize_forward")
    plain = extensions.ReferenceQuantizedFunctions.Quantize_forward
    assert kernel is not plain, "NNCF could not compile its extension"
    return made.train()


def torchao(model, x):
    """torchao's QAT of exported graphs, with the moving averages that its x86 quantizer sets."""
    return exported(model, x, lambda spec, observer: spec)


def torchao_learned(model, x):
    """The same graph with torchao's learnable quantizers, started from one batch's ranges."""
    pt2e = importlib.import_module("torchao.quantization.pt2e")

    def learnable(spec, observer):
        made = pt2e.LearnableFakeQuantize.with_args(
            observer=getattr(pt2e, observer), use_grad_scaling=True
        )
        return dataclasses.replace(spec, observer_or_fake_quant_ctr=made)

    made = exported(model, x, learnable)
    made(x)  # the first pass makes the steps
    return made.apply(pt2e.enable_range_learning)


def exported(model, x, quantizer):
    """The graph that torchao trains; ``quantizer(spec, observer)`` may change how a tensor is held.

    Its other interface, `QATConfig` for `quantize_`, refuses all but linear and embedding layers.
    """
    pt2e = importlib.import_module("torchao.quantization.pt2e")
    prepare = importlib.import_module("torchao.quantization.pt2e.quantize_pt2e").prepare_qat_pt2e
    x86 = importlib.import_module("torchao.quantization.pt2e.quantizer.x86_inductor_quantizer")
    eight = x86.get_default_x86_inductor_quantization_config(is_qat=True)
    act = dataclasses.replace(eight.input_activation, quant_max=15)
    weight = dataclasses.replace(eight.weight, quant_min=-8, quant_max=7)
    act = quantizer(act, "MovingAverageMinMaxObserver")
    weight = quantizer(weight, "MovingAveragePerChannelMinMaxObserver")
    four = dataclasses.replace(eight, input_activation=act, output_activation=act, weight=weight)
    graph = torch.export.export(model, (x,), strict=True).module()
    made = prepare(graph, x86.X86InductorQuantizer().set_global(four))
    return pt2e.move_exported_model_to_train(made)


PEERS = {
    "torch": Peer(native, "torch", "as ours, by `_fake_quantize_learnable_*`"),
    "brevitas": Peer(
        brevitas,
        "brevitas.nn",
        "as ours (weights a channel, activations a tensor, steps learned, all layers); "
        "`BREVITAS_JIT` off, its default",
    ),
    "nncf": Peer(
        nncf,
        "nncf.torch",
        "its C++ extension; weights a channel, activations a tensor, steps learned, all layers; "
        "both inputs of additions are quantized, too, and signed, which leaves 3 bits after ReLU",
    ),
    "torchao": Peer(
        torchao,
        "torchao.quantization.pt2e",
        "exported graph; weights a channel with BatchNorm folded in, activations a tensor with "
        "zero point, ranges by moving averages instead of learned, all layers, and additions",
        learned=False,
    ),
    "torchao with learned ranges": Peer(
        torchao_learned,
        "torchao.quantization.pt2e",
        "the same with its `LearnableFakeQuantize`: steps and zero points learned",
    ),
}
