"""Dequantization factors at the ends of their tables and by segment."""

from __future__ import annotations

import numpy as np
import pytest

from codec.quantize import dequantization_factors, dequantize, segment_quantizers
from codec.tables import AC_QLOOKUP, DC_QLOOKUP


@pytest.mark.parametrize(
    ("index", "deltas", "factors"),
    [
        (0, (0, 0, 0, 0, 0), [4, 4, 8, 8, 4, 4]),
        (127, (0, 0, 0, 0, 0), [157, 284, 314, 440, 132, 284]),
        (0, (-15, -15, -15, -15, -15), [4, 4, 8, 8, 4, 4]),
        (127, (15, 15, 15, 15, 15), [157, 284, 314, 440, 132, 284]),
        (10, (5, 0, 0, 0, 0), [17, 14, 26, 21, 13, 14]),
    ],
)
def test_factors(index: int, deltas: tuple[int, ...], factors: list[int]) -> None:
    assert dequantization_factors(index, *deltas).tolist() == factors


def test_each_delta_moves_one_factor() -> None:
    plain = dequantization_factors(40)
    for delta, factor in enumerate((0, 2, 3, 4, 5)):
        deltas = [0] * 5
        deltas[delta] = 9
        changed = dequantization_factors(40, *deltas) != plain
        assert np.flatnonzero(changed).tolist() == [factor]


def test_segments() -> None:
    none = segment_quantizers(50, (0,) * 5, None, False)
    assert np.array_equal(none, np.stack([dequantization_factors(50)] * 4))
    relative = segment_quantizers(50, (0,) * 5, (0, -60, 100, 7), False)
    absolute = segment_quantizers(50, (0,) * 5, (0, 60, 127, 7), True)
    assert relative[:, 1].tolist() == [AC_QLOOKUP[i] for i in (50, 0, 127, 57)]
    assert absolute[:, 0].tolist() == [DC_QLOOKUP[i] for i in (0, 60, 127, 7)]


def test_products_wrap_to_16_bits() -> None:
    levels = np.full((25, 16), 2047, np.int16)
    coefficients = np.zeros((25, 16), np.int16)
    dequantize(levels, np.full(6, 157, np.int16), True, coefficients)
    assert np.all(coefficients == (2047 * 157 + 32768) % 65536 - 32768)
