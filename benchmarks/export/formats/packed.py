"""Packed weights: a safetensors file whose weight bytes are the policy's bits, and its loader.

Of every layer the file holds, under the layer's name,

- ``.codes``: the weight's unsigned codes in one bit stream (see
  `benchmarks.export.graphs.bitstream`), output channel after output channel, each with its own
  bits; one stream a layer, rounded up to a byte. Its bytes are ceil(sum over channels of n * b /
  8): the target ``size``, rounded up per layer.
- ``.bits``: bits of the channels ``[C]``, or one number, uint8;
- ``.scale`` and ``.offset``: value = scale * (u + offset), or ``.codebook``; neither for float
  weights, which are in ``.weight``;
- ``.act``: step, smallest and largest code and offset of the activations' grid, float32.

Biases, BatchNorm and all other state of the float network are under ``state.`` and its own key.
The metadata have the format, its version, the policy, the input's shape and what the writer adds.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn

from benchmarks.export.graphs.bitstream import pack, unpack
from benchmarks.export.graphs.codes import PRUNED, Exported, Weights, exported_layers
from benchmarks.records.store import write_bytes
from frameworks import (
    Calibration,
    Float,
    Layer,
    LayerBits,
    Policy,
    QModel,
    Quantizer,
    UniformQuantizer,
    Zero,
    describe,
    schemes,
)

FORMAT, VERSION = "juxtabit.packed", "1"


class BadPackedFile(ValueError):
    """A file is no packed network, or does not fit the network it is loaded into."""


def payload(tensors: Mapping[str, Tensor]) -> int:
    """Bytes of the weights themselves: all bit streams, and float weights."""
    parts = [t for k, t in tensors.items() if k.endswith((".codes", ".weight")) and _is_layer(k)]
    return sum(t.numel() * t.element_size() for t in parts)


def _is_layer(key: str) -> bool:
    return key.startswith("layer.")


def packed_tensors(model: QModel) -> dict[str, Tensor]:
    """The tensors of a packed file.

    Raises:
        UnsupportedExport: see `benchmarks.export.graphs.codes.exported_layers`.
    """
    layers = exported_layers(model)
    weights = {f"{e.layer.name}.weight" for e in layers}
    state = {f"state.{k}": v for k, v in model.float_state().items() if k not in weights}
    out = {k: v.contiguous().clone() for k, v in state.items()}
    for entry in layers:
        out.update(_layer_tensors(entry))
    return out


def _layer_tensors(entry: Exported) -> dict[str, Tensor]:
    weights, at = entry.weights, f"layer.{entry.layer.name}"
    same = bool((weights.bits == weights.bits[0]).all())
    bits = weights.bits[:1] if same else weights.bits
    out = {f"{at}.bits": bits.to(torch.uint8)}
    if weights.code is None:
        out[f"{at}.weight"] = weights.value.clone()
    else:
        values = weights.code.flatten().long().numpy()
        out[f"{at}.codes"] = torch.from_numpy(pack(values, _widths(weights.bits, entry.layer)))
    for name in ("scale", "offset", "codebook"):
        part = getattr(weights, name)
        if part is not None:
            out[f"{at}.{name}"] = (part if name == "codebook" else part.flatten()).clone()
    if entry.grid is not None:
        grid = entry.grid
        out[f"{at}.act"] = torch.tensor([grid.step, grid.low, grid.high, grid.offset])
    return out


def _widths(bits: Tensor, layer: Layer) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    channels = bits.long().expand(layer.out_channels).numpy()
    return np.repeat(channels, layer.params // layer.out_channels)


def save_packed(
    model: QModel, path: Path, input_shape: tuple[int, ...], notes: Mapping[str, str] | None = None
) -> int:
    """Write a quantized network; returns the bytes of its weights.

    Args:
        model: the network at its policy.
        path: the file.
        input_shape: shape of one sample, ``(C, H, W)``.
        notes: further metadata.

    Raises:
        UnsupportedExport: see `benchmarks.export.graphs.codes.exported_layers`.
        OSError: the file cannot be written.
    """
    tensors = packed_tensors(model)
    metadata = {
        **(notes or {}),
        "format": FORMAT,
        "version": VERSION,
        "policy": json.dumps(model.policy.to_json()),
        "input_shape": json.dumps(list(input_shape)),
    }
    write_bytes(path, save(tensors, metadata))
    return payload(tensors)


def load_packed(path: Path, network: nn.Module) -> QModel:
    """The quantized network of a packed file, with the outputs of the one that was saved.

    Args:
        path: the file.
        network: a float network of the same architecture; it is not changed, its weights are not
            used.

    Raises:
        BadPackedFile: the file cannot be read, or is of another network.
    """
    tensors, metadata = _read(path)
    policy = Policy.from_json(json.loads(metadata["policy"]))
    layers = describe(network, json.loads(metadata["input_shape"]))
    if [layer.name for layer in layers] != list(policy):
        raise BadPackedFile(f"{path}: its layers are not those of the network")
    try:
        parts = {x.name: _restored(tensors, x, policy[x.name]) for x in layers}
        state = {k.removeprefix("state."): v for k, v in tensors.items() if not _is_layer(k)}
        state |= {f"{name}.weight": weights.dequantized() for name, (weights, _) in parts.items()}
        inner = copy.deepcopy(network)
        inner.load_state_dict(state)
    except (KeyError, RuntimeError, ValueError) as error:
        raise BadPackedFile(f"{path}: does not fit the network ({error})") from error
    model = QModel(inner, layers, schemes.get("minmax")(), _no_samples(layers))
    for name, q in model.qlayers():
        q.use(policy[name], Float(), parts[name][1])
    return model.eval()


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except Exception as error:  # safetensors raises a type of its own
        raise BadPackedFile(f"{path}: cannot be read ({error})") from error
    if (metadata.get("format"), metadata.get("version")) != (FORMAT, VERSION):
        raise BadPackedFile(f"{path}: is no {FORMAT} file of version {VERSION}")
    return tensors, metadata


def _no_samples(layers: tuple[Layer, ...]) -> Calibration:
    return Calibration({layer.name: torch.zeros(1) for layer in layers})


def _restored(
    tensors: Mapping[str, Tensor], layer: Layer, bits: LayerBits
) -> tuple[Weights, Quantizer]:
    """A layer's weight, and the quantizer of its input."""
    at = f"layer.{layer.name}"
    channels = tensors[f"{at}.bits"].long().expand(layer.out_channels)
    if channels.tolist() != list(bits.channels(layer.out_channels)):
        raise ValueError(f"layer {layer.name}: bits are not the policy's")
    if f"{at}.weight" in tensors:
        return Weights(tensors[f"{at}.weight"], channels), _act(tensors, at, bits.act)
    code = unpack(tensors[f"{at}.codes"].numpy(), _widths(channels, layer))
    shape = _weight_shape(layer)
    broad = (-1, *(1,) * (len(shape) - 1))
    scale, offset = (
        tensors[f"{at}.{name}"].view(broad) if f"{at}.{name}" in tensors else None
        for name in ("scale", "offset")
    )
    codes = torch.from_numpy(code).float().view(shape)
    made = Weights(codes, channels, codes, scale, offset, tensors.get(f"{at}.codebook"))
    return made, _act(tensors, at, bits.act)


def _weight_shape(layer: Layer) -> tuple[int, ...]:
    if layer.kind == "linear":
        return (layer.out_channels, layer.in_channels)
    return (layer.out_channels, layer.in_channels // layer.groups, *layer.kernel)


def _act(tensors: Mapping[str, Tensor], at: str, bits: int) -> Quantizer:
    if f"{at}.act" not in tensors:
        return Zero() if bits == PRUNED else Float()
    step, low, high, offset = tensors[f"{at}.act"]
    return UniformQuantizer(step, int(low), int(high), float(offset), learned=False)
