"""Quantization: RFC 6386 sections 9.6 and 14.1."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from codec import simd
from codec.kernel import kernel, part_kernel
from codec.tables import AC_QLOOKUP, DC_QLOOKUP

Y1_DC, Y1_AC, Y2_DC, Y2_AC, UV_DC, UV_AC = range(6)
MAX_Q_INDEX = 127


def _at(table: NDArray[np.generic], index: int) -> int:
    return int(table[min(max(index, 0), MAX_Q_INDEX)])


def dequantization_factors(
    q_index: int, y1_dc: int = 0, y2_dc: int = 0, y2_ac: int = 0, uv_dc: int = 0, uv_ac: int = 0
) -> NDArray[np.int16]:
    """Factors (6,) int16, Y1_DC .. UV_AC, of a quantizer index and the header's five deltas (section 14.1)."""
    q_index = min(max(q_index, 0), MAX_Q_INDEX)
    return np.array(
        [
            _at(DC_QLOOKUP, q_index + y1_dc),
            _at(AC_QLOOKUP, q_index),
            2 * _at(DC_QLOOKUP, q_index + y2_dc),
            max(_at(AC_QLOOKUP, q_index + y2_ac) * 155 // 100, 8),
            min(_at(DC_QLOOKUP, q_index + uv_dc), 132),
            _at(AC_QLOOKUP, q_index + uv_ac),
        ],
        np.int16,
    )


def segment_quantizers(
    q_index: int, deltas: Sequence[int], segment_values: Sequence[int] | None, absolute: bool
) -> NDArray[np.int16]:
    """Factors (4, 6) int16 of each segment (section 9.3).

    `deltas` are the header's five (y1_dc, y2_dc, y2_ac, uv_dc, uv_ac); `segment_values` are the four segments'
    quantizers (or what they add, if not `absolute`), None without segmentation.
    """
    rows = []
    for segment in range(4):
        index = q_index
        if segment_values is not None:
            index = int(segment_values[segment]) + (0 if absolute else q_index)
        rows.append(dequantization_factors(index, *(int(delta) for delta in deltas)))
    return np.stack(rows)


@kernel
def dequantize(levels, factors, has_y2, coefficients):
    """Multiply the levels of a macroblock by their factors (section 14.1); products wrap to 16 bits as in libvpx.

    levels and coefficients (25, 16) int16, factors (6,) int16. Row 24 is left alone without a Y2 block, and
    the first coefficients of blocks 0 .. 15 are worthless with one: `inverse_wht` fills them.
    """
    for block in range(16):
        _dequantize_block(levels, block, factors[Y1_DC], factors[Y1_AC], coefficients)
    for block in range(16, 24):
        _dequantize_block(levels, block, factors[UV_DC], factors[UV_AC], coefficients)
    if has_y2:
        _dequantize_block(levels, np.int64(24), factors[Y2_DC], factors[Y2_AC], coefficients)


@part_kernel
def _dequantize_block(levels, block, dc, ac, coefficients):
    first = simd.i16x4(levels[block, 0]) * dc
    simd.store(simd.load16(levels, block, 0) * simd.i16x16(ac), coefficients, block, 0)
    coefficients[block, 0] = simd.lane(first, 0)
