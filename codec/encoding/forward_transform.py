"""Transforms from pixels to coefficients, as libvpx encodes with (the RFC leaves them to the encoder).

Residues are source less prediction, both uint8 planes at the same place; coefficients are rows of an (N, 16) int16
array, one a block, in raster order. Scales are those that RFC 6386 section 14's inverses undo.
"""

from __future__ import annotations

import numpy as np

from codec import simd
from codec.kernel import allocating_kernel, inline_kernel, kernel
from codec.transform import blocks_of_rows, join8, transpose_four, transpose_one


@inline_kernel
def _horizontal_pass(i0, i1, i2, i3):
    a = (i0 + i3) << 3
    b = (i1 + i2) << 3
    c = simd.to_i32((i1 - i2) << 3)
    d = simd.to_i32((i0 - i3) << 3)
    odd = (c * 2217 + d * 5352 + 14500) >> 12
    other = (d * 2217 - c * 5352 + 7500) >> 12
    return a + b, simd.to_i16(odd), a - b, simd.to_i16(other)


@inline_kernel
def _vertical_pass(i0, i1, i2, i3):
    a = i0 + i3
    b = i1 + i2
    c = simd.to_i32(i1 - i2)
    d = simd.to_i32(i0 - i3)
    odd = ((c * 2217 + d * 5352 + 12000) >> 16) + simd.to_i32(d != 0)
    other = (d * 2217 - c * 5352 + 51000) >> 16
    return (a + b + 7) >> 4, simd.to_i16(odd), (a - b + 7) >> 4, simd.to_i16(other)


@inline_kernel
def _forward_dct_of_four(r0, r1, r2, r3, coefficients, block):
    """Transform four blocks whose rows lie side by side in four vectors."""
    r0, r1, r2, r3 = transpose_four(r0, r1, r2, r3)
    r0, r1, r2, r3 = _horizontal_pass(r0, r1, r2, r3)
    r0, r1, r2, r3 = transpose_four(r0, r1, r2, r3)
    r0, r1, r2, r3 = _vertical_pass(r0, r1, r2, r3)
    b0, b1, b2, b3 = blocks_of_rows(r0, r1, r2, r3)
    simd.store(b0, coefficients, block, 0)
    simd.store(b1, coefficients, block + 1, 0)
    simd.store(b2, coefficients, block + 2, 0)
    simd.store(b3, coefficients, block + 3, 0)


@inline_kernel
def _difference16(source, plane, y, x):
    return simd.load16(source, y, x) - simd.load16(plane, y, x)


@inline_kernel
def _difference8x2(source, plane, y, x):
    """Eight pixels at y and eight at y + 4."""
    return join8(
        simd.load8(source, y, x) - simd.load8(plane, y, x),
        simd.load8(source, y + 4, x) - simd.load8(plane, y + 4, x),
    )


@inline_kernel
def _difference4(source, plane, y, x):
    return simd.load4(source, y, x) - simd.load4(plane, y, x)


@kernel
def forward_dct_row(source, plane, y, x, coefficients, block):
    """Transform the residue of the 16x4 pixels at (y, x) to blocks block .. block+3, side by side."""
    r0 = _difference16(source, plane, y, x)
    r1 = _difference16(source, plane, y + 1, x)
    r2 = _difference16(source, plane, y + 2, x)
    r3 = _difference16(source, plane, y + 3, x)
    _forward_dct_of_four(r0, r1, r2, r3, coefficients, block)


@kernel
def forward_dct_2x2(source, plane, y, x, coefficients, block):
    """Transform the residue of the 8x8 pixels at (y, x) to blocks block .. block+3, two above two."""
    r0 = _difference8x2(source, plane, y, x)
    r1 = _difference8x2(source, plane, y + 1, x)
    r2 = _difference8x2(source, plane, y + 2, x)
    r3 = _difference8x2(source, plane, y + 3, x)
    _forward_dct_of_four(r0, r1, r2, r3, coefficients, block)


@kernel
def forward_dct_block(source, plane, y, x, coefficients, block):
    """Transform the residue of the 4x4 pixels at (y, x) to one block."""
    r0 = _difference4(source, plane, y, x)
    r1 = _difference4(source, plane, y + 1, x)
    r2 = _difference4(source, plane, y + 2, x)
    r3 = _difference4(source, plane, y + 3, x)
    r0, r1, r2, r3 = transpose_one(r0, r1, r2, r3)
    r0, r1, r2, r3 = _horizontal_pass(r0, r1, r2, r3)
    r0, r1, r2, r3 = transpose_one(r0, r1, r2, r3)
    r0, r1, r2, r3 = _vertical_pass(r0, r1, r2, r3)
    simd.store(r0, coefficients, block, 0)
    simd.store(r1, coefficients, block, 4)
    simd.store(r2, coefficients, block, 8)
    simd.store(r3, coefficients, block, 12)


@allocating_kernel
def forward_wht(coefficients):
    """Transform the first coefficients of blocks 0 .. 15 to the Y2 block, row 24."""
    work = np.empty(16, np.int64)
    for row in range(4):
        i0 = np.int64(coefficients[4 * row, 0])
        i1 = np.int64(coefficients[4 * row + 1, 0])
        i2 = np.int64(coefficients[4 * row + 2, 0])
        i3 = np.int64(coefficients[4 * row + 3, 0])
        a = (i0 + i2) << 2
        b = (i0 - i2) << 2
        c = (i1 - i3) << 2
        d = (i1 + i3) << 2
        work[4 * row] = a + d + (1 if a != 0 else 0)
        work[4 * row + 1] = b + c
        work[4 * row + 2] = b - c
        work[4 * row + 3] = a - d
    for column in range(4):
        a = work[column] + work[8 + column]
        b = work[column] - work[8 + column]
        c = work[4 + column] - work[12 + column]
        d = work[4 + column] + work[12 + column]
        coefficients[24, column] = _rounded(a + d)
        coefficients[24, 4 + column] = _rounded(b + c)
        coefficients[24, 8 + column] = _rounded(b - c)
        coefficients[24, 12 + column] = _rounded(a - d)


@inline_kernel
def _rounded(value):
    return (value + (1 if value < 0 else 0) + 3) >> 3
