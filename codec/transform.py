"""Transforms between pixels and coefficients: RFC 6386 section 14, and the forward ones that libvpx encodes with.

Coefficients are (N, 16) int16 arrays, one row a block, in raster order within the block. Arithmetic is that of
16-bit lanes, which wrap around like libvpx's vector code does on coefficients that no encoder writes.
"""

from __future__ import annotations

from codec import simd
from codec.frame import BORDER
from codec.kernel import kernel, part_kernel

# Shuffles of four blocks side by side, a vector holding one row (or column) of each ------------------------------

_low_quads = simd.shuffle((0, 1, 2, 3, 16, 17, 18, 19, 8, 9, 10, 11, 24, 25, 26, 27))
_high_quads = simd.shuffle((4, 5, 6, 7, 20, 21, 22, 23, 12, 13, 14, 15, 28, 29, 30, 31))
_low_halves = simd.shuffle((0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23))
_high_halves = simd.shuffle((8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31))
_low_words = simd.shuffle((0, 16, 1, 17, 2, 18, 3, 19, 8, 24, 9, 25, 10, 26, 11, 27))
_high_words = simd.shuffle((4, 20, 5, 21, 6, 22, 7, 23, 12, 28, 13, 29, 14, 30, 15, 31))
_low_pairs = simd.shuffle((0, 1, 16, 17, 2, 3, 18, 19, 8, 9, 24, 25, 10, 11, 26, 27))
_high_pairs = simd.shuffle((4, 5, 20, 21, 6, 7, 22, 23, 12, 13, 28, 29, 14, 15, 30, 31))
_dc_of_four = simd.shuffle((0, 0, 0, 0, 4, 4, 4, 4, 8, 8, 8, 8, 12, 12, 12, 12))
_first_half = simd.shuffle((0, 1, 2, 3, 4, 5, 6, 7))
_second_half = simd.shuffle((8, 9, 10, 11, 12, 13, 14, 15))

# Shuffles of a single block
_low4 = simd.shuffle((0, 4, 1, 5))
_high4 = simd.shuffle((2, 6, 3, 7))
_low4_pairs = simd.shuffle((0, 1, 4, 5))
_high4_pairs = simd.shuffle((2, 3, 6, 7))
_join4 = simd.shuffle((0, 1, 2, 3, 4, 5, 6, 7))
join8 = simd.shuffle((0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15))


@part_kernel
def _rows_of_four(a, b, c, d):
    """Turn four whole blocks into four vectors of their first, second, third and fourth rows (its own inverse)."""
    ab02 = _low_quads(a, b)
    ab13 = _high_quads(a, b)
    cd02 = _low_quads(c, d)
    cd13 = _high_quads(c, d)
    return (
        _low_halves(ab02, cd02),
        _low_halves(ab13, cd13),
        _high_halves(ab02, cd02),
        _high_halves(ab13, cd13),
    )


@part_kernel
def blocks_of_rows(r0, r1, r2, r3):
    """Turn vectors of the four rows of four blocks into four whole blocks."""
    a = _low_halves(r0, r2)
    b = _low_halves(r1, r3)
    c = _high_halves(r0, r2)
    d = _high_halves(r1, r3)
    return _low_quads(a, b), _high_quads(a, b), _low_quads(c, d), _high_quads(c, d)


@part_kernel
def transpose_four(r0, r1, r2, r3):
    """Transpose each of four blocks, between vectors of rows and vectors of columns."""
    t0 = _low_words(r0, r1)
    t1 = _low_words(r2, r3)
    t2 = _high_words(r0, r1)
    t3 = _high_words(r2, r3)
    a01 = _low_pairs(t0, t1)
    a23 = _high_pairs(t0, t1)
    b01 = _low_pairs(t2, t3)
    b23 = _high_pairs(t2, t3)
    return _low_quads(a01, b01), _high_quads(a01, b01), _low_quads(a23, b23), _high_quads(a23, b23)


@part_kernel
def transpose_one(r0, r1, r2, r3):
    t0 = _low4(r0, r1)
    t1 = _low4(r2, r3)
    t2 = _high4(r0, r1)
    t3 = _high4(r2, r3)
    return _low4_pairs(t0, t1), _high4_pairs(t0, t1), _low4_pairs(t2, t3), _high4_pairs(t2, t3)


# Inverse transforms ----------------------------------------------------------------------------------------------


@part_kernel
def _inverse_dct_pass(i0, i1, i2, i3):
    """One dimension of the inverse DCT (section 14.3).

    35468 / 65536 is sqrt(2) sin(pi/8), here as -30068 / 65536 + 1; 20091 / 65536 is sqrt(2) cos(pi/8) - 1.
    """
    a = i0 + i2
    b = i0 - i2
    c = (i1 + simd.multiply_high(i1, -30068)) - (i3 + simd.multiply_high(i3, 20091))
    d = (i1 + simd.multiply_high(i1, 20091)) + (i3 + simd.multiply_high(i3, -30068))
    return a + d, b + c, b - c, a - d


@part_kernel
def _inverse_dct_of_four(coefficients, block):
    """Residue of blocks block .. block+3: four vectors, one a row of all four."""
    r0, r1, r2, r3 = _rows_of_four(
        simd.load16(coefficients, block, 0),
        simd.load16(coefficients, block + 1, 0),
        simd.load16(coefficients, block + 2, 0),
        simd.load16(coefficients, block + 3, 0),
    )
    r0, r1, r2, r3 = _inverse_dct_pass(r0, r1, r2, r3)
    r0, r1, r2, r3 = transpose_four(r0, r1, r2, r3)
    r0, r1, r2, r3 = _inverse_dct_pass(r0 + 4, r1, r2, r3)
    return transpose_four(r0 >> 3, r1 >> 3, r2 >> 3, r3 >> 3)


@kernel
def inverse_dct_add(coefficients, block, plane, y, x):
    """Add the residue of one block of dequantized coefficients to the 4x4 pixels at (y, x) (section 14.3)."""
    r0 = simd.load4(coefficients, block, 0)
    r1 = simd.load4(coefficients, block, 4)
    r2 = simd.load4(coefficients, block, 8)
    r3 = simd.load4(coefficients, block, 12)
    r0, r1, r2, r3 = _inverse_dct_pass(r0, r1, r2, r3)
    r0, r1, r2, r3 = transpose_one(r0, r1, r2, r3)
    r0, r1, r2, r3 = _inverse_dct_pass(r0 + 4, r1, r2, r3)
    r0, r1, r2, r3 = transpose_one(r0 >> 3, r1 >> 3, r2 >> 3, r3 >> 3)
    simd.store(simd.load4(plane, y, x) + r0, plane, y, x)
    simd.store(simd.load4(plane, y + 1, x) + r1, plane, y + 1, x)
    simd.store(simd.load4(plane, y + 2, x) + r2, plane, y + 2, x)
    simd.store(simd.load4(plane, y + 3, x) + r3, plane, y + 3, x)


@kernel
def inverse_dc_add(dc, plane, y, x):
    """`inverse_dct_add` of a block that has only its first coefficient, `dc` (dequantized)."""
    residue = simd.i16x4((dc + 4) >> 3)
    for row in range(y, y + 4):
        simd.store(simd.load4(plane, row, x) + residue, plane, row, x)


@part_kernel
def _add_row(residue, plane, y, x):
    simd.store(simd.load16(plane, y, x) + residue, plane, y, x)


@part_kernel
def _add_pair_rows(upper, lower, plane, y, x):
    """Add a row of two blocks at y, and the same row of the two blocks below them."""
    simd.store(simd.load8(plane, y, x) + upper, plane, y, x)
    simd.store(simd.load8(plane, y + 4, x) + lower, plane, y + 4, x)


@part_kernel
def _add_2x2_row(residue, plane, y, x):
    _add_pair_rows(_first_half(residue, residue), _second_half(residue, residue), plane, y, x)


@kernel
def inverse_dct_add_row(coefficients, block, plane, y, x):
    """Add the residues of blocks block .. block+3, side by side, to the 16x4 pixels at (y, x)."""
    r0, r1, r2, r3 = _inverse_dct_of_four(coefficients, block)
    _add_row(r0, plane, y, x)
    _add_row(r1, plane, y + 1, x)
    _add_row(r2, plane, y + 2, x)
    _add_row(r3, plane, y + 3, x)


@kernel
def inverse_dct_add_2x2(coefficients, block, plane, y, x):
    """Add the residues of blocks block .. block+3, two above two, to the 8x8 pixels at (y, x)."""
    r0, r1, r2, r3 = _inverse_dct_of_four(coefficients, block)
    _add_2x2_row(r0, plane, y, x)
    _add_2x2_row(r1, plane, y + 1, x)
    _add_2x2_row(r2, plane, y + 2, x)
    _add_2x2_row(r3, plane, y + 3, x)


@part_kernel
def _dc_residue_of_four(coefficients, block):
    upper = _join4(simd.load4(coefficients, block, 0), simd.load4(coefficients, block + 1, 0))
    lower = _join4(simd.load4(coefficients, block + 2, 0), simd.load4(coefficients, block + 3, 0))
    every = join8(upper, lower)
    return (_dc_of_four(every, every) + 4) >> 3


@kernel
def inverse_dc_add_row(coefficients, block, plane, y, x):
    """`inverse_dct_add_row` of blocks that have only their first coefficients."""
    residue = _dc_residue_of_four(coefficients, block)
    for row in range(y, y + 4):
        _add_row(residue, plane, row, x)


@kernel
def inverse_dc_add_2x2(coefficients, block, plane, y, x):
    """`inverse_dct_add_2x2` of blocks that have only their first coefficients."""
    residue = _dc_residue_of_four(coefficients, block)
    for row in range(y, y + 4):
        _add_2x2_row(residue, plane, row, x)


@part_kernel
def _inverse_wht_pass(i0, i1, i2, i3):
    a = i0 + i3
    b = i1 + i2
    c = i1 - i2
    d = i0 - i3
    return a + b, c + d, a - b, d - c


@kernel
def inverse_wht(coefficients):
    """Turn the dequantized Y2 block, row 24, into the first coefficients of blocks 0 .. 15 (section 14.3)."""
    r0 = simd.load4(coefficients, 24, 0)
    r1 = simd.load4(coefficients, 24, 4)
    r2 = simd.load4(coefficients, 24, 8)
    r3 = simd.load4(coefficients, 24, 12)
    r0, r1, r2, r3 = _inverse_wht_pass(r0, r1, r2, r3)
    r0, r1, r2, r3 = transpose_one(r0, r1, r2, r3)
    r0, r1, r2, r3 = _inverse_wht_pass(r0 + 3, r1, r2, r3)
    columns = (r0 >> 3, r1 >> 3, r2 >> 3, r3 >> 3)
    for row in range(4):
        coefficients[4 * row, 0] = simd.lane(columns[0], row)
        coefficients[4 * row + 1, 0] = simd.lane(columns[1], row)
        coefficients[4 * row + 2, 0] = simd.lane(columns[2], row)
        coefficients[4 * row + 3, 0] = simd.lane(columns[3], row)


@kernel
def add_residue(coefficients, eobs, picture, mb_row, mb_col):
    """Add the residue of a whole predicted macroblock to a picture (all modes but B_PRED, which adds block by block).

    coefficients (25, 16) int16: dequantized; with a Y2 block, `inverse_wht` has put the first ones in place.
    eobs (25,) uint8: at most 1 where a block has no coefficient beyond its first.
    """
    y = BORDER + 16 * mb_row
    x = BORDER + 16 * mb_col
    for block in range(0, 16, 4):
        kind = _group_kind(coefficients, eobs, block)
        if kind == 2:
            inverse_dct_add_row(coefficients, block, picture.y, y + block, x)
        elif kind == 1:
            inverse_dc_add_row(coefficients, block, picture.y, y + block, x)
    y = BORDER + 8 * mb_row
    x = BORDER + 8 * mb_col
    for block, plane in ((16, picture.u), (20, picture.v)):
        kind = _group_kind(coefficients, eobs, block)
        if kind == 2:
            inverse_dct_add_2x2(coefficients, block, plane, y, x)
        elif kind == 1:
            inverse_dc_add_2x2(coefficients, block, plane, y, x)


@part_kernel
def add_chroma_residue(coefficients, eobs, picture, mb_row, mb_col):
    """The chroma's part of it, for B_PRED; arguments as above."""
    y = BORDER + 8 * mb_row
    x = BORDER + 8 * mb_col
    for block, plane in ((16, picture.u), (20, picture.v)):
        if eobs[block] | eobs[block + 1] | eobs[block + 2] | eobs[block + 3]:
            inverse_dct_add_2x2(coefficients, block, plane, y, x)


@part_kernel
def _group_kind(coefficients, eobs, block):
    """What four blocks hold: 2 if any has more than its first coefficient, 1 if any has that, else 0."""
    if (eobs[block] > 1) | (eobs[block + 1] > 1) | (eobs[block + 2] > 1) | (eobs[block + 3] > 1):
        return 2
    upper = coefficients[block, 0] | coefficients[block + 1, 0]
    lower = coefficients[block + 2, 0] | coefficients[block + 3, 0]
    return 1 if (upper | lower) != 0 else 0
