"""What a quantizer and a quantization scheme are."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from frameworks.core.policy import FLOAT, PRUNED, Bits


@dataclass(frozen=True)
class Codes:
    """A quantized tensor as integers: value = scale * (code + offset), or codebook[code].

    ``scale`` and ``offset`` broadcast against ``code``. A codebook is one for all, ``[levels]``,
    or one per output channel, ``[C, levels]``.
    """

    code: Tensor
    scale: Tensor
    offset: Tensor
    codebook: Tensor | None = None

    def dequantize(self) -> Tensor:
        """The real values that the codes stand for."""
        if self.codebook is None:
            return self.scale * (self.code + self.offset)
        if self.codebook.dim() == 1:
            return self.codebook[self.code.long()]
        rows = self.code.long().reshape(len(self.code), -1)
        return self.codebook.gather(1, rows).reshape(self.code.shape)

    def apply(self, fn: Callable[[Tensor], Tensor]) -> Codes:
        """The same with each tensor through a function, as one that moves them."""
        book = None if self.codebook is None else fn(self.codebook)
        return Codes(fn(self.code), fn(self.scale), fn(self.offset), book)

    @classmethod
    def of_codebook(cls, code: Tensor, codebook: Tensor) -> Codes:
        """Codes that are positions in a codebook."""
        return cls(code, codebook.new_ones(()), codebook.new_zeros(()), codebook)


@dataclass(frozen=True)
class Grid:
    """A fixed uniform grid for a whole tensor: value = step * (clip(round(x/step - o), ...) + o).

    Attributes:
        step: positive, in float32 and exact.
        low: smallest code.
        high: largest code.
        offset: shift of the grid in steps, o.
    """

    step: float
    low: int
    high: int
    offset: float


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, value: Tensor) -> Tensor:
        return value.detach()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0], None


def straight_through(x: Tensor, value: Tensor) -> Tensor:
    """``value`` going forward, the identity of ``x`` going backward."""
    out: Tensor = _StraightThrough.apply(x, value)
    return out


class Quantizer(nn.Module, ABC):
    """Maps a tensor to b bits and back to real numbers, differentiably (straight-through).

    A learned range is an ``nn.Parameter`` of the quantizer, frozen until `learn_range` is called.
    """

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """The fake-quantized tensor, same shape and dtype."""

    @abstractmethod
    def codes(self, x: Tensor) -> Codes:
        """The integers behind `forward`; ``codes(x).dequantize()`` equals ``forward(x)``."""

    def uniform_grid(self) -> Grid | None:
        """The grid of a quantizer that maps every tensor to one fixed uniform grid; else None."""
        return None

    def code_range(self) -> tuple[int, int] | None:
        """The least and the largest code that any tensor may get; None: it does not say."""
        return None

    def learn_range(self, learn: bool = True) -> None:
        """Let the range be trained, or not."""
        for parameter in self.parameters():
            parameter.requires_grad_(learn)


class Float(Quantizer):
    """32 bits: the tensor itself."""

    def forward(self, x: Tensor) -> Tensor:
        return x

    def codes(self, x: Tensor) -> Codes:
        raise ValueError("32 bits means float: there are no integer codes")


class Zero(Quantizer):
    """0 bits: pruned."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 0

    def codes(self, x: Tensor) -> Codes:
        zero = torch.zeros_like(x)
        return Codes(zero, x.new_ones(()), x.new_zeros(()))


class PerChannel(Quantizer):
    """Different bits in each output channel: one quantizer per bit width, rows put together."""

    def __init__(self, parts: Sequence[tuple[Tensor, Quantizer]]) -> None:
        super().__init__()
        self.quantizers = nn.ModuleList(quantizer for _, quantizer in parts)
        for i, (rows, _) in enumerate(parts):
            self.register_buffer(f"rows{i}", rows)

    def _parts(self) -> list[tuple[Tensor, Quantizer]]:
        return [(self.get_buffer(f"rows{i}"), q) for i, q in enumerate(self.quantizers)]  # type: ignore[misc]

    def forward(self, x: Tensor) -> Tensor:
        out = torch.zeros_like(x)
        for rows, quantizer in self._parts():
            out = out.index_copy(0, rows, quantizer(x[rows]))
        return out

    def codes(self, x: Tensor) -> Codes:
        return joined([(rows, q.codes(x[rows])) for rows, q in self._parts()], x)


def joined(parts: Sequence[tuple[Tensor, Codes]], x: Tensor) -> Codes:
    """Codes of a tensor from those of its rows; ``parts`` are the rows' places and codes."""
    code = torch.zeros_like(x)
    for rows, part in parts:
        code[rows] = part.code
    if any(part.codebook is not None for _, part in parts):
        return Codes.of_codebook(code, _codebooks(parts, x))
    shape = (len(x),) + (1,) * (x.dim() - 1)
    scale, offset = x.new_ones(shape), x.new_zeros(shape)
    for rows, part in parts:
        scale[rows] = part.scale.expand(len(rows), *shape[1:])
        offset[rows] = part.offset.expand(len(rows), *shape[1:])
    return Codes(code, scale, offset)


def _codebooks(parts: Sequence[tuple[Tensor, Codes]], x: Tensor) -> Tensor:
    """One codebook per channel ``[C, levels]``, filled up with zeros; a pruned channel's is 0."""
    levels = max(p.codebook.shape[-1] for _, p in parts if p.codebook is not None)
    out = x.new_zeros(len(x), levels)
    for rows, part in parts:
        if part.codebook is not None:
            out[rows, : part.codebook.shape[-1]] = part.codebook.to(out)
    return out


class Scheme(ABC):
    """How the weights and activations of a network are quantized: one paper's recipe.

    A subclass implements `weight_quantizer` and `activation_quantizer` for 1 to 8 and 16 bits;
    the cases 0, 32 and per-channel bits are common to all and handled here.
    """

    name: ClassVar[str]

    @abstractmethod
    def weight_quantizer(self, weight: Tensor, bits: int) -> Quantizer:
        """A quantizer calibrated on a weight tensor ``[out, in, ...]``."""

    @abstractmethod
    def activation_quantizer(self, sample: Tensor, bits: int) -> Quantizer:
        """A quantizer calibrated on a one-dimensional sample of a layer's input activations."""

    def weight(self, weight: Tensor, bits: Bits) -> Quantizer:
        """The quantizer of a weight tensor for any weight bits of a policy."""
        if isinstance(bits, tuple):
            if len(bits) != len(weight):
                raise ValueError(f"{len(bits)} per-channel bits for {len(weight)} channels")
            each = torch.tensor(bits)
            parts = []
            for value in sorted(set(bits)):
                rows = torch.nonzero(each == value).flatten().to(weight.device)
                parts.append((rows, self.weight(weight[rows], value)))
            return PerChannel(parts)
        if bits == PRUNED:
            return Zero()
        return Float() if bits == FLOAT else self.weight_quantizer(weight, bits)

    def activation(self, sample: Tensor, bits: int) -> Quantizer:
        """The quantizer of a layer's input activations for any activation bits of a policy."""
        if bits == PRUNED:
            return Zero()
        return Float() if bits == FLOAT else self.activation_quantizer(sample, bits)
