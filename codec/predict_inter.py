"""Prediction from a reference picture: RFC 6386 section 18.

Positions count whole pixels from the corner of the padded plane, fractions are eighths of a pixel. The borders of
the reference must be extended. Blocks further out than the border are moved back to where they see the same edge.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from codec import simd
from codec.frame import BORDER, SPLIT_4X4
from codec.kernel import kernel, part_kernel
from codec.tables import SUBPIXEL_BILINEAR_FILTERS, SUBPIXEL_SIXTAP_FILTERS

_SIXTAP = SUBPIXEL_SIXTAP_FILTERS.astype(np.int16)
_BILINEAR = SUBPIXEL_BILINEAR_FILTERS.astype(np.int16)
# a block from here on up (left) sees nothing but the edge, filter taps included
_FIRST = BORDER - 19
_LAST = 2 - BORDER  # and so does one that starts this far from the end of the padded plane

# The six taps' sum reaches 160 * 255, too much for 16 bits: 64 * 128 is taken off it and given back at the end.
_ROUND = 64 - 64 * 128

_join8 = simd.shuffle(tuple(range(16)))
_join4 = simd.shuffle(tuple(range(8)))
_first8 = simd.shuffle(tuple(range(8)))
_last8 = simd.shuffle(tuple(range(8, 16)))
_first4 = simd.shuffle(tuple(range(4)))
_last4 = simd.shuffle(tuple(range(4, 8)))


@part_kernel
def _load_two8(planes, y, x):
    return _join8(simd.load8(planes[0], y, x), simd.load8(planes[1], y, x))


@part_kernel
def _store_two8(vector, planes, y, x):
    simd.store(_first8(vector, vector), planes[0], y, x)
    simd.store(_last8(vector, vector), planes[1], y, x)


@part_kernel
def _load_two4(planes, y, x):
    return _join4(simd.load4(planes[0], y, x), simd.load4(planes[1], y, x))


@part_kernel
def _store_two4(vector, planes, y, x):
    simd.store(_first4(vector, vector), planes[0], y, x)
    simd.store(_last4(vector, vector), planes[1], y, x)


def _block_predictor(load: Any, store: Any, spread: Any, rows: int) -> Callable[..., None]:
    """Make the kernel that predicts blocks of `rows` rows, one vector a row, by `load`, `store` and `spread`."""

    @part_kernel
    def filtered(p0, p1, p2, p3, p4, p5, t0, t1, t2, t3, t4, t5):
        total = (p0 * t0 + p1 * t1) + (p2 * t2 + p3 * t3) + (p4 * t4 + p5 * t5)
        return ((total + _ROUND) >> 7) + 64

    @part_kernel
    def across(source, y, x, t0, t1, t2, t3, t4, t5):
        return filtered(
            load(source, y, x - 2),
            load(source, y, x - 1),
            load(source, y, x),
            load(source, y, x + 1),
            load(source, y, x + 2),
            load(source, y, x + 3),
            t0,
            t1,
            t2,
            t3,
            t4,
            t5,
        )

    @part_kernel
    def clamped(vector):
        return simd.minimum(simd.maximum(vector, 0), 255)

    @part_kernel
    def taps(fraction):
        return (
            spread(_SIXTAP[fraction, 0]),
            spread(_SIXTAP[fraction, 1]),
            spread(_SIXTAP[fraction, 2]),
            spread(_SIXTAP[fraction, 3]),
            spread(_SIXTAP[fraction, 4]),
            spread(_SIXTAP[fraction, 5]),
        )

    @part_kernel
    def sixtap_both(source, y, x, fy, fx, destination, to_y, to_x):
        h0, h1, h2, h3, h4, h5 = taps(fx)
        v0, v1, v2, v3, v4, v5 = taps(fy)
        r0 = clamped(across(source, y - 2, x, h0, h1, h2, h3, h4, h5))
        r1 = clamped(across(source, y - 1, x, h0, h1, h2, h3, h4, h5))
        r2 = clamped(across(source, y, x, h0, h1, h2, h3, h4, h5))
        r3 = clamped(across(source, y + 1, x, h0, h1, h2, h3, h4, h5))
        r4 = clamped(across(source, y + 2, x, h0, h1, h2, h3, h4, h5))
        for row in range(rows):
            r5 = clamped(across(source, y + 3 + row, x, h0, h1, h2, h3, h4, h5))
            result = filtered(r0, r1, r2, r3, r4, r5, v0, v1, v2, v3, v4, v5)
            store(result, destination, to_y + row, to_x)
            r0, r1, r2, r3, r4 = r1, r2, r3, r4, r5

    @part_kernel
    def sixtap_across(source, y, x, fx, destination, to_y, to_x):
        h0, h1, h2, h3, h4, h5 = taps(fx)
        for row in range(rows):
            result = across(source, y + row, x, h0, h1, h2, h3, h4, h5)
            store(result, destination, to_y + row, to_x)

    @part_kernel
    def sixtap_down(source, y, x, fy, destination, to_y, to_x):
        v0, v1, v2, v3, v4, v5 = taps(fy)
        r0 = load(source, y - 2, x)
        r1 = load(source, y - 1, x)
        r2 = load(source, y, x)
        r3 = load(source, y + 1, x)
        r4 = load(source, y + 2, x)
        for row in range(rows):
            r5 = load(source, y + 3 + row, x)
            result = filtered(r0, r1, r2, r3, r4, r5, v0, v1, v2, v3, v4, v5)
            store(result, destination, to_y + row, to_x)
            r0, r1, r2, r3, r4 = r1, r2, r3, r4, r5

    @part_kernel
    def bilinear_across(source, y, x, h0, h1):
        return (load(source, y, x) * h0 + load(source, y, x + 1) * h1 + 64) >> 7

    @part_kernel
    def bilinear_both(source, y, x, fy, fx, destination, to_y, to_x):
        h0 = spread(_BILINEAR[fx, 0])
        h1 = spread(_BILINEAR[fx, 1])
        v0 = spread(_BILINEAR[fy, 0])
        v1 = spread(_BILINEAR[fy, 1])
        upper = bilinear_across(source, y, x, h0, h1)
        for row in range(rows):
            lower = bilinear_across(source, y + row + 1, x, h0, h1)
            store((upper * v0 + lower * v1 + 64) >> 7, destination, to_y + row, to_x)
            upper = lower

    @part_kernel
    def predict(source, y, x, fy, fx, bilinear, destination, to_y, to_x):
        if (fy | fx) == 0:
            for row in range(rows):
                store(load(source, y + row, x), destination, to_y + row, to_x)
        elif bilinear:
            bilinear_both(source, y, x, fy, fx, destination, to_y, to_x)
        elif fy == 0:
            sixtap_across(source, y, x, fx, destination, to_y, to_x)
        elif fx == 0:
            sixtap_down(source, y, x, fy, destination, to_y, to_x)
        else:
            sixtap_both(source, y, x, fy, fx, destination, to_y, to_x)

    return predict


_predict_16x16 = _block_predictor(simd.load16, simd.store, simd.i16x16, 16)
_predict_8x8 = _block_predictor(simd.load8, simd.store, simd.i16x8, 8)
_predict_4x4 = _block_predictor(simd.load4, simd.store, simd.i16x4, 4)
_predict_two_8x8 = _block_predictor(_load_two8, _store_two8, simd.i16x16, 8)
_predict_two_4x4 = _block_predictor(_load_two4, _store_two4, simd.i16x8, 4)


@kernel
def predict_inter_16x16(source, y, x, fy, fx, bilinear, destination, to_y, to_x):
    """Predict 16x16 pixels at (to_y, to_x) from `source` at (y + fy / 8, x + fx / 8) (section 18.3).

    2 pixels above and left, 3 below and right of the block must exist in `source`.
    """
    _predict_16x16(source, y, x, fy, fx, bilinear, destination, to_y, to_x)


@kernel
def predict_inter_8x8(source, y, x, fy, fx, bilinear, destination, to_y, to_x):
    """`predict_inter_16x16` for 8x8 pixels."""
    _predict_8x8(source, y, x, fy, fx, bilinear, destination, to_y, to_x)


@kernel
def predict_inter_4x4(source, y, x, fy, fx, bilinear, destination, to_y, to_x):
    """`predict_inter_16x16` for 4x4 pixels."""
    _predict_4x4(source, y, x, fy, fx, bilinear, destination, to_y, to_x)


@kernel
def predict_inter_two_8x8(source, y, x, fy, fx, bilinear, destination, to_y, to_x):
    """`predict_inter_8x8` for the pairs of planes `source` and `destination`, both at the same positions."""
    _predict_two_8x8(source, y, x, fy, fx, bilinear, destination, to_y, to_x)


@kernel
def predict_inter_two_4x4(source, y, x, fy, fx, bilinear, destination, to_y, to_x):
    """`predict_inter_4x4` for the pairs of planes `source` and `destination`, both at the same positions."""
    _predict_two_4x4(source, y, x, fy, fx, bilinear, destination, to_y, to_x)


@part_kernel
def clamp_position(position, padded_size):
    """Move the first row or column of a block to where its filter taps stay inside the padded plane.

    Exactly as if the border went on for ever: a block moved so saw only edge pixels, and still does.
    """
    return min(max(position, _FIRST), padded_size + _LAST)


@part_kernel
def _average(total):
    """A quarter of the sum of four vectors, rounded away from zero (section 18.1, at full precision)."""
    return (total + 2) >> 2 if total >= 0 else -((2 - total) >> 2)


@kernel
def predict_inter_luma(plane, vectors, split, partitioning, version, destination, mb_row, mb_col):
    """Luma part of `predict_inter_macroblock`, on single planes."""
    height, width = plane.shape
    bilinear = 1 <= version <= 3
    to_y = BORDER + 16 * mb_row
    to_x = BORDER + 16 * mb_col
    if not split:
        dy = np.int64(vectors[0, 0])
        dx = np.int64(vectors[0, 1])
        y = clamp_position(to_y + (dy >> 2), height)
        x = clamp_position(to_x + (dx >> 2), width)
        predict_inter_16x16(
            plane, y, x, 2 * (dy & 3), 2 * (dx & 3), bilinear, destination, to_y, to_x
        )
        return
    whole = partitioning < SPLIT_4X4
    for part in range(4 if whole else 16):
        subblock = ((part & 2) << 2) + ((part & 1) << 1) if whole else part
        dy = np.int64(vectors[subblock, 0])
        dx = np.int64(vectors[subblock, 1])
        part_y = to_y + (subblock >> 2) * 4
        part_x = to_x + (subblock & 3) * 4
        y = clamp_position(part_y + (dy >> 2), height)
        x = clamp_position(part_x + (dx >> 2), width)
        fy = 2 * (dy & 3)
        fx = 2 * (dx & 3)
        if whole:
            predict_inter_8x8(plane, y, x, fy, fx, bilinear, destination, part_y, part_x)
        else:
            predict_inter_4x4(plane, y, x, fy, fx, bilinear, destination, part_y, part_x)


@kernel
def predict_inter_chroma(reference, vectors, split, version, picture, mb_row, mb_col):
    """Chroma part of `predict_inter_macroblock`: both planes by vectors derived from the luma's (section 18.1)."""
    source = (reference.u, reference.v)
    destination = (picture.u, picture.v)
    height, width = reference.u.shape
    bilinear = 1 <= version <= 3
    mask = ~7 if version == 3 else ~0
    to_y = BORDER + 8 * mb_row
    to_x = BORDER + 8 * mb_col
    if not split:
        dy = np.int64(vectors[0, 0]) & mask
        dx = np.int64(vectors[0, 1]) & mask
        y = clamp_position(to_y + (dy >> 3), height)
        x = clamp_position(to_x + (dx >> 3), width)
        predict_inter_two_8x8(source, y, x, dy & 7, dx & 7, bilinear, destination, to_y, to_x)
        return
    for quarter in range(4):
        first = (quarter >> 1) * 8 + (quarter & 1) * 2
        dy = np.int64(0)
        dx = np.int64(0)
        for subblock in (first, first + 1, first + 4, first + 5):
            dy += np.int64(vectors[subblock, 0])
            dx += np.int64(vectors[subblock, 1])
        dy = _average(dy) & mask
        dx = _average(dx) & mask
        part_y = to_y + (quarter >> 1) * 4
        part_x = to_x + (quarter & 1) * 4
        y = clamp_position(part_y + (dy >> 3), height)
        x = clamp_position(part_x + (dx >> 3), width)
        predict_inter_two_4x4(source, y, x, dy & 7, dx & 7, bilinear, destination, part_y, part_x)


@kernel
def predict_inter_macroblock(
    reference, vectors, split, partitioning, version, picture, mb_row, mb_col
):
    """Predict a whole macroblock of `picture` from `reference` (two Pictures).

    vectors (16, 2) int16: (row, column) in quarter pixels, the same 16 times unless `split`; partitioning counts
    only then. version 0 filters by six taps, 1 to 3 bilinearly, and 3 moves chroma by whole pixels (section 5).
    """
    predict_inter_luma(
        reference.y, vectors, split, partitioning, version, picture.y, mb_row, mb_col
    )
    predict_inter_chroma(reference, vectors, split, version, picture, mb_row, mb_col)
