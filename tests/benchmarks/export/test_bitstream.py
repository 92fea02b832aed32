import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.export.graphs.bitstream import pack, packed_bytes, unpack

CODES = st.integers(0, 16).flatmap(
    lambda width: st.tuples(st.just(width), st.integers(0, 2**width - 1))
)


def arrays(pairs):
    return (
        np.array([v for _, v in pairs], np.int64),
        np.array([w for w, _ in pairs], np.int64),
    )


@given(st.lists(CODES, max_size=60))
def test_what_is_packed_is_unpacked(pairs):
    values, widths = arrays(pairs)
    stream = pack(values, widths)
    assert np.array_equal(unpack(stream, widths), values)
    # The stream read as one big number, which is another way to lay out bits.
    total, at = 0, 0
    for width, value in pairs:
        total, at = total | value << at, at + width
    assert int.from_bytes(stream.tobytes(), "little") == total
    assert len(stream) == packed_bytes(widths) == -(-at // 8)


@pytest.mark.parametrize("bits", range(1, 9))
def test_a_width_takes_its_bits(bits):
    values = np.arange(1000) % 2**bits
    stream = pack(values, np.full(1000, bits))
    assert len(stream) == 125 * bits


def test_a_stream_by_hand():
    # 5 in 3 bits, 2 in 2 bits, 9 in 4 bits: 1|001 10 101 from the right.
    stream = pack(np.array([5, 2, 9]), np.array([3, 2, 4]))
    assert stream.tolist() == [0b00110101, 0b1]


@pytest.mark.parametrize(("value", "width"), [(4, 2), (-1, 3), (1, 0), (0, 17)])
def test_what_does_not_fit_is_refused(value, width):
    with pytest.raises(ValueError, match="bit stream"):
        pack(np.array([value]), np.array([width]))


def test_a_stream_of_another_length_is_refused():
    with pytest.raises(ValueError, match="3 bytes, 2 for these widths"):
        unpack(np.zeros(3, np.uint8), np.full(3, 5))
