"""Unsigned integers of 0 to 16 bits as one contiguous stream of bits.

The first value starts at the least significant bit of the first byte; a value's own bits follow
each other from the least significant one, across the borders of bytes. Values may have different
widths. The stream ends with the byte that holds its last bit; the rest of it is zero.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
Integers = npt.NDArray[np.int64]
MOST_BITS = 16


def _bounded(widths: Integers) -> None:
    if len(widths) and not 0 <= widths.min() <= widths.max() <= MOST_BITS:
        raise ValueError(f"bit stream: widths must lie within 0..{MOST_BITS}")


def packed_bytes(widths: Integers) -> int:
    """Bytes of the stream of values of these widths: their bits, rounded up to a byte."""
    return -(-int(widths.sum()) // 8)


def pack(values: Integers, widths: Integers) -> Bytes:
    """Pack values ``[n]``, each into as many bits as ``widths [n]`` says.

    Raises:
        ValueError: a value is negative or does not fit its width.
    """
    _bounded(widths)
    if (values < 0).any() or (values >> widths).any():
        raise ValueError("bit stream: a value does not fit its width")
    places = np.arange(MOST_BITS)
    bits = (values[:, None] >> places) & 1
    # Rows in order, and of each row the bits below its width.
    stream = bits[places < widths[:, None]].astype(np.uint8)
    return np.packbits(stream, bitorder="little")


def unpack(stream: Bytes, widths: Integers) -> Integers:
    """Inverse of `pack`: values ``[n]``.

    Raises:
        ValueError: the stream has not the length that the widths ask for.
    """
    _bounded(widths)
    if len(stream) != packed_bytes(widths):
        raise ValueError(
            f"bit stream: {len(stream)} bytes, {packed_bytes(widths)} for these widths"
        )
    bits = np.unpackbits(stream, count=int(widths.sum()), bitorder="little")
    table = np.zeros((len(widths), MOST_BITS), np.int64)
    table[np.arange(MOST_BITS) < widths[:, None]] = bits
    values: Integers = (table << np.arange(MOST_BITS)).sum(1)
    return values
