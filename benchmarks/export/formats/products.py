"""Convolutions and linear layers in QDQ: weights, BatchNorm and biases.

BatchNorm is folded into the scales of weights, so that the codes stay the policy's; what it adds,
and biases, follow the layer in float. On request (`Integers.BIAS`) the bias goes into a convolution
of 8-bit activations whose result is quantized to 8 bits at once, as int32 in units of both scales:
these are the convolutions that ONNX Runtime runs in integers. The bias is rounded to such a unit,
which moves values by thousandths, at worst some hundredths, of a step of the next layer's grid, and
codes with them; where it would be more (`INTEGER_TIE`), it is not done. All other layers run in
float, so their weights are then written as what ONNX Runtime turns into floats when it loads the
file (Cast and Mul): it does not do so with DequantizeLinear, and then has none of its fast float
kernels either.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from benchmarks.export.checks.ties import INTEGER_TIE, TIE
from benchmarks.export.formats.activations import code_width
from benchmarks.export.formats.affine import (
    Affine,
    affine,
    batchnorm_of,
    folded,
    normalisation,
    scaled,
    unturned,
)
from benchmarks.export.formats.integers import (
    Integers,
    bias_moves,
    bias_units,
    filled,
    saturates,
)
from benchmarks.export.formats.weights import write_float, write_weight
from benchmarks.export.formats.writing import Writing
from benchmarks.export.graphs.codes import Exported
from benchmarks.export.graphs.errors import UnsupportedExport
from benchmarks.export.graphs.graph import attributes

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Call:
    """One call of a convolution, with the BatchNorm that alone reads its result.

    Attributes:
        node: the convolution.
        factor: what its sums are multiplied with ``[C]``.
        shift: what is then added ``[C]``, with the bias in it.
        out: the result.
    """

    node: onnx.NodeProto
    factor: Array
    shift: Array
    out: str


def write_convolution(w: Writing, node: onnx.NodeProto) -> None:
    """Write a convolution, together with the BatchNorm that alone reads its result."""
    index = w.weights[node.input[1]]
    entry, call = w.layers[index], _call(w, node)
    calls = [_call(w, other) for other in w.convolutions[index]]
    if call.out != node.output[0]:
        w.gone.add(call.out)
    integers = _in_integers(w, entry, call)
    if integers is None:
        _in_float(w, entry, call, calls)
        return
    turned, units = integers
    assert entry.grid is not None
    name, out, unsigned = entry.layer.name, call.out, saturates(turned, entry.grid)
    weight = write_weight(w.graph, entry, f"{out}.weight", turned, unsigned=unsigned)
    code = w.graph.keep(f"{name}.bias", units.astype(np.int32))
    scale = (turned.scale * np.float32(entry.grid.step)).astype(np.float32)
    kept = w.graph.keep(f"{name}.bias.scale", scale)
    bias = w.graph.add("DequantizeLinear", [code, kept], f"{out}.bias", axis=0)
    w.graph.add("Conv", [node.input[0], weight, bias], out, layer=name, **attributes(node))


def _call(w: Writing, node: onnx.NodeProto) -> Call:
    entry, norm = w.layers[w.weights[node.input[1]]], batchnorm_of(w.graph, node)
    factor = np.ones(len(entry.weights.value))
    shift = np.zeros(len(factor))
    if norm is not None:
        factor, shift = normalisation(w.graph, norm)
    shift = shift + _bias_of(w, node, entry) * factor
    return Call(node, factor, shift, node.output[0] if norm is None else norm.output[0])


def _bias_of(w: Writing, node: onnx.NodeProto, entry: Exported) -> Array | float:
    if len(node.input) < 3 or not node.input[2]:
        return 0.0
    bias = w.graph.constant(node.input[2])
    if bias is None:
        raise UnsupportedExport(f"layer {entry.layer.name}: its bias is computed by the network")
    return bias


def _in_integers(w: Writing, entry: Exported, call: Call) -> tuple[Affine, Array] | None:
    """Weights and bias of the form that ONNX Runtime runs in integers, if there is one."""
    made = w.multiplied(entry, call.node.input[0]) if w.integers > Integers.NONE else None
    turned = folded(made, call.factor) if made is not None else None
    if turned is None or entry.grid is None or not _exact(w, entry, turned, call.out):
        return None
    units = bias_units(turned, entry.grid, call.shift)
    return None if units is None else (turned, units)


def _exact(w: Writing, entry: Exported, made: Affine, out: str) -> bool:
    """Whether a rounded bias leaves the codes that read the output as good as they are."""
    grids = w.following(out)
    widths = {code_width(grid) for grid in grids}
    if w.integers == Integers.OUTPUTS:
        return 16 not in widths
    grid = grids.pop() if len(grids) == 1 else None
    if grid is None or entry.grid is None or widths != {8}:
        return False
    return bias_moves(made, entry.grid) <= (INTEGER_TIE - TIE) * grid.step


def _in_float(w: Writing, entry: Exported, call: Call, calls: list[Call]) -> None:
    """Write a convolution times a factor, plus a shift, for each output channel.

    The file has a weight once, whatever follows each of the layer's calls: where not all of them
    turn the same codes around, none does, and where one runs in integers, all have its codes. Only
    calls in integers, whose scales must be positive, may turn codes around that others do not, and
    then have them once more.
    """
    out, node, name = call.out, call.node, entry.layer.name
    made, sign = affine(entry.weights), None
    real = w.integers > Integers.NONE or made is None
    if made is None:
        weight = _float_weight(w, entry, call, calls)
    else:
        others = (other for other in calls if other.node is not node)
        whole = any(_in_integers(w, entry, other) is not None for other in others)
        made = filled(made) if whole else made
        turned, sign = _turned(made, call, calls, real)
        unsigned = whole and entry.grid is not None and saturates(turned, entry.grid)
        weight = write_weight(w.graph, entry, f"{out}.weight", turned, real=real, unsigned=unsigned)
    inputs = [node.input[0], weight]
    at = w.graph.add("Conv", inputs, f"{out}.sum", layer=name, **attributes(node))
    _after(w, entry, at, sign, call.shift, out, real and w.apart(out))


def _turned(made: Affine, call: Call, calls: list[Call], real: bool) -> tuple[Affine, Array | None]:
    """Weights times a call's factor, and the signs that are left for what follows them, if any."""
    signs = np.sign(call.factor)
    if all(np.array_equal(np.sign(other.factor), signs) for other in calls):
        turned = folded(made, call.factor)
        if turned is not None:
            return turned, None
        absolute = folded(made, np.abs(call.factor))
        assert absolute is not None
        return absolute, np.where(call.factor < 0, -1.0, 1.0)
    if real:
        return scaled(made, call.factor), None
    return unturned(made, call.factor), None if (signs == 1).all() else signs


def _float_weight(w: Writing, entry: Exported, call: Call, calls: list[Call]) -> str:
    """Write a float weight times a call's factor; beside the weight where calls have others."""
    value, name = entry.weights.value.double().numpy(), entry.layer.name
    factor = call.factor.reshape(-1, *(1,) * (value.ndim - 1))
    if all(np.array_equal(other.factor, call.factor) for other in calls):
        return write_float(w.graph, f"{name}.float", value * factor, f"{call.out}.weight")
    kept = w.graph.keep(f"{name}.factor", factor.astype(np.float32))
    return write_float(w.graph, f"{name}.float", value, f"{call.out}.weight", kept)


def _after(
    w: Writing, entry: Exported, x: str, sign: Array | None, shift: Array, out: str, apart: bool
) -> None:
    """What follows the convolution: signs, and the shift as a sum, or as a difference."""
    shape, name = (-1, *(1,) * len(entry.layer.kernel)), entry.layer.name
    if sign is not None:
        value = w.graph.keep(f"{name}.sign", sign.astype(np.float32).reshape(shape))
        x = w.graph.add("Mul", [x, value], f"{out}.turned")
    term = shift.astype(np.float32).reshape(shape)
    if apart:
        w.graph.add("Sub", [x, w.graph.keep(f"{name}.minus", -term)], out)
    else:
        w.graph.add("Add", [x, w.graph.keep(f"{name}.shift", term)], out)


def write_transposed(w: Writing, node: onnx.NodeProto) -> None:
    """Write a transposed convolution with its bias behind it, where it stays exact only there."""
    bias = w.graph.constant(node.input[2]) if len(node.input) > 2 else np.zeros(1, np.float32)
    out, found = node.output[0], attributes(node)
    if bias is None or "strides" not in found or not w.apart(out):
        w.graph.new.append(node)
        return
    at = w.graph.add("ConvTranspose", list(node.input[:2]), f"{out}.sum", **found)
    minus = -bias.astype(np.float32).reshape(-1, *(1,) * len(found["strides"]))
    w.graph.add("Sub", [at, w.graph.keep(f"{out}.minus", minus)], out)


def write_linear(w: Writing, node: onnx.NodeProto) -> None:
    """Write a Gemm as a product and a sum, so that no runtime rounds the bias.

    ONNX Runtime takes a product and a sum for a Gemm again, which it runs in float; a product and a
    difference it leaves apart, and runs the product in integers if it can.
    """
    entry = w.layers[w.weights[node.input[1]]]
    out, bias = node.output[0], [*node.input[2:]]
    weight = write_product(w, entry, node.input[0], f"{out}.weight")
    inputs, name = [node.input[0], weight], entry.layer.name
    at = w.graph.add("MatMul", inputs, f"{out}.sum" if bias else out, layer=name)
    value = w.graph.constant(bias[0]) if bias else None
    quantized = w.input_grid(entry, node.input[0]) is not None
    if value is not None and (quantized or w.apart(out)):
        w.graph.add("Sub", [at, w.graph.keep(f"{name}.minus", -value)], out)
    elif bias:
        w.graph.add("Add", [at, bias[0]], out)


def write_product(w: Writing, entry: Exported, x: str, out: str) -> str:
    """The weight ``[in, out]`` of a product, which is run in integers if both sides are."""
    made, found = w.multiplied(entry, x), w.input_grid(entry, x)
    unsigned = made is not None and found is not None and saturates(made, found[0])
    # ONNX Runtime takes a product of float or 16-bit activations with DequantizeLinear for one
    # whose activations it may round to 8 bits.
    narrow = found is not None and found[1] in (4, 8)
    real = made is None and (w.integers > Integers.NONE or not narrow)
    return write_weight(w.graph, entry, out, made, transposed=True, real=real, unsigned=unsigned)
