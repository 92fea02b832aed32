"""Bit Fusion (Sharma et al., ISCA 2018, arXiv 1712.01507): a spatial array of fused bit bricks.

The Eyeriss-sized set-up of the authors' simulator (hsharma35/bitfusion, ``bf_e_conf.ini``): 16 rows
of inputs by 32 columns of outputs, 500 MHz, 192 bits per cycle to memory. All numbers are in
``data/bitfusion.json``, each with its file.

**Speed of a unit.** A unit does f = p(b_w) p(b_a) multiply-accumulates a cycle, with
p(b) = floor(8 / max(b, 2)): 4 at 1 and 2 bits, 2 at 3 and 4 bits, 1 at 5 to 8 bits
(``accelerator.py``, get_perf_factor). So 5 to 8 bits are equally fast and differ in traffic only.
At 16 bits, which the simulator leaves out, p = 1/2: the operand goes through in two halves, as in
the paper (and in MOHAQ's table of speed-ups).

**Compute cycles**, C of a group's input channels and K kernel taps (get_compute_cycles)::

    direct    positions * K * ceil(C / (16 f))    for each 32 output channels
    im2col    positions * ceil(K C / (16 f))      for each 32 output channels

The simulator takes im2col for the first layer and the direct form for all others. It knows no
grouped convolutions. Depthwise ones take K * positions for each 8 f channels, fitted to the table
that APQ (arXiv 2006.08509) published [derived]; others are groups times a smaller problem in direct
form [own model].

**Traffic.** The simulator searches tilings and loop orders. Here [own model] the cheaper of two
schedules is taken: weights stay and inputs are read again for every half weight buffer, or the
reverse. Halves, because buffers are double. Outputs are read and written once at 32 bits each, as
in the simulator. The latency is that of the longer of compute and traffic, which overlap.

**Energy** (``stats.py``, get_energy): compute cycles times the array's dynamic energy (4 x 4 units
synthesized in 45 nm, scaled by area), plus buffer accesses at CACTI's energy per bit, plus 15 pJ
per bit of traffic. Accesses are those of the output-stationary order, which the simulator's rule
selects at these widths [derived]: b_w + b_a bits read per multiply-accumulate, partial sums once.
What a schedule reads again is priced in memory, not in the buffers (below 1 % of it). Leakage is
not counted, as in the simulator.

**Bits per output channel.** Channels are sorted by bits, 32 (or, depthwise, 8 f) to a pass, and a
pass runs at the bits of its widest channel; weights are stored at their own bits [own model].

**How near.** APQ's table (mit-han-lab/apq, ``lut/BitFusion_new.b1.dict``) is of this array, clock
and interface: it has just these cycles where traffic binds a layer whose data fit the buffers.
``tests/hardware/test_bitfusion.py`` measures the distance on a part of it: latencies of pointwise
layers are within 5 % on average, of depthwise ones within 12 %, mostly too low; energies of
pointwise layers are 15 % too low on average and of depthwise ones 58 %, which the published
constants do not explain. So compare policies by their energies; do not quote them.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from importlib.resources import files
from typing import Any, ClassVar, Literal

from frameworks.core.layers import Layer
from frameworks.core.policy import FLOAT, PRUNED, LayerBits
from frameworks.core.registry import register_target
from frameworks.core.target import SeparableTarget, kept_channels

SETUP: Mapping[str, Any] = json.loads(
    (files("frameworks.hardware") / "data" / "bitfusion.json").read_text(encoding="utf-8")
)
ROWS, COLUMNS = SETUP["rows"], SETUP["columns"]
CORE_PJ = (
    SETUP["synthesis"]["dynamic_nw"] / SETUP["synthesis"]["clock_hz"] * 1e3
    * ROWS * COLUMNS / SETUP["synthesis"]["units"]
)  # fmt: skip
"""Dynamic energy of the whole array in one cycle."""
DRAM_PJ: float = SETUP["dram_pj_per_bit"]
HALF: Mapping[str, int] = {name: size * 8 // 2 for name, size in SETUP["buffer_bytes"].items()}
"""Bits of half a buffer: the other half is being filled."""


@cache
def _pj(buffer: str, access: str) -> float:
    """Energy per bit of a buffer access."""
    banks = SETUP["banks"]
    return float(banks[buffer][f"{access}_nj"] * 1e3 / banks["word_bits"])


@cache
def speed(weight: int, act: int) -> Fraction:
    """Multiply-accumulates of one unit in one cycle."""
    each = [Fraction(8 // max(b, 2)) if b <= 8 else Fraction(8, b) for b in (weight, act)]
    return each[0] * each[1]


@cache
def lanes(units: int, weight: int, act: int) -> int:
    """Multiply-accumulates of some units, a multiple of four, in one cycle."""
    return int(units * speed(weight, act))


@register_target
@dataclass(frozen=True)
class BitFusion(SeparableTarget):
    """Latency and energy of one sample on Bit Fusion, and the weights' size.

    Runs 1 to 8 and 16 bits. The formulas and where they are from stand at the top of the file.
    """

    name: ClassVar[str] = "bitfusion"
    kind: ClassVar[Literal["model", "table", "measured"]] = "model"
    metrics: ClassVar[Mapping[str, str]] = {"latency": "ms", "energy": "mJ", "size": "bytes"}

    def supports(self, layer: Layer, weight: int, act: int) -> bool:
        return weight == PRUNED or all(0 < b < FLOAT for b in (weight, act))

    def layer_cost(self, layer: Layer, bits: LayerBits) -> dict[str, float]:
        self.require(layer, bits)
        groups = kept_channels(layer, bits)
        cycles = compute_cycles(layer, groups, bits.act)
        moved = Moved.of(layer, groups, bits.act)
        busy = max(cycles, math.ceil(moved.traffic / SETUP["interface_bits_per_cycle"]))
        return {
            "latency": layer.calls * busy / SETUP["clock_hz"] * 1e3,
            "energy": layer.calls * (cycles * CORE_PJ + moved.energy) * 1e-9,
            "size": layer.stored * bits.mean_weight / 8,
        }


def compute_cycles(layer: Layer, groups: Counter[tuple[int, ...]], act: int) -> int:
    """Cycles in which the array is busy, for one run of a layer."""
    taps = math.prod(layer.kernel)
    depth = layer.in_channels // layer.groups
    if layer.depthwise:
        return layer.positions * taps * _depthwise_passes(groups, act)
    total = 0
    for channels, count in groups.items():
        for weight, passes in Counter(channels[::COLUMNS]).items():
            width = lanes(ROWS, weight, act)
            if layer.index == 0:
                steps = math.ceil(taps * depth / width)
            else:
                steps = taps * math.ceil(depth / width)
            total += count * passes * layer.positions * steps
    return total


def _depthwise_passes(groups: Counter[tuple[int, ...]], act: int) -> int:
    left = Counter[int]()
    for channels, count in groups.items():
        for weight in channels:
            left[weight] += count
    passes = spare = 0
    for weight, count in sorted(left.items(), reverse=True):
        width = lanes(SETUP["depthwise_lanes"], weight, act)
        more = math.ceil(max(count - spare, 0) / width)
        passes, spare = passes + more, spare + more * width - count
    return passes


@dataclass(frozen=True)
class Moved:
    """What one run of a layer moves, in bits.

    Attributes:
        weight: stored weights.
        input: input activations that kept channels read.
        output: outputs, at the width of the accumulators.
        reads: bits that the array reads from the weight and from the input buffer.
    """

    weight: int
    input: int
    output: int
    reads: tuple[int, int]

    @classmethod
    def of(cls, layer: Layer, groups: Counter[tuple[int, ...]], act: int) -> Moved:
        """The data of a layer with these bits of its kept channels."""
        per_channel = layer.params // layer.out_channels
        channels = sum(len(group) * count for group, count in groups.items())
        weight = per_channel * sum(sum(group) * count for group, count in groups.items())
        macs = per_channel * channels * layer.positions
        return cls(
            weight=weight,
            input=layer.in_elements // layer.groups * groups.total() * act,
            output=channels * layer.positions * SETUP["output_bits"],
            reads=(weight * layer.positions, macs * act),
        )

    @property
    def traffic(self) -> int:
        """Bits between memory and buffers, under the cheaper schedule."""
        again = min(
            self.weight + self.input * math.ceil(self.weight / HALF["weight"]),
            self.input + self.weight * math.ceil(self.input / HALF["input"]),
        )
        return again + 2 * self.output

    @property
    def energy(self) -> float:
        """Energy of buffers and memory in pJ."""
        return (
            self.reads[0] * _pj("weight", "read") + self.weight * _pj("weight", "write")
            + self.reads[1] * _pj("input", "read") + self.input * _pj("input", "write")
            + 2 * self.output * (_pj("output", "read") + _pj("output", "write"))
            + self.traffic * DRAM_PJ
        )  # fmt: skip
