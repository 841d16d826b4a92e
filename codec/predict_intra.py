"""Prediction from pixels of the same picture: RFC 6386 section 12.

Neighbours are read from the picture under construction, before its loop filter, which starts with the border
that `set_intra_border` draws. Each function predicts from the pixels around (y, x) of one plane into a destination
that may be the same plane; all coordinates count from the corner of the padded plane.
"""

from __future__ import annotations

import numpy as np

from codec import simd
from codec.frame import (
    B_DC_PRED,
    B_HD_PRED,
    B_HE_PRED,
    B_HU_PRED,
    B_LD_PRED,
    B_RD_PRED,
    B_TM_PRED,
    B_VE_PRED,
    B_VL_PRED,
    BORDER,
    DC_PRED,
    H_PRED,
    V_PRED,
)
from codec.kernel import kernel, part_kernel


@kernel
def set_intra_border(picture):
    """Draw the border of a picture not yet decoded: 127 above, from the corner to above-right, 129 to the left."""
    for plane in (picture.y, picture.u, picture.v):
        height, width = plane.shape
        plane[BORDER - 1, BORDER - 1 : width - BORDER + 4] = 127
        plane[BORDER : height - BORDER, BORDER - 1] = 129


@kernel
def extend_above_right(plane, mb_row, mb_col):
    """Before subblock prediction in the last column: repeat the last pixel above it to the right, as libvpx does.

    Does nothing elsewhere, and nothing in the first row, where `set_intra_border` put 127.
    """
    y = BORDER + 16 * mb_row
    x = BORDER + 16 * mb_col + 16
    if mb_row > 0 and x == plane.shape[1] - BORDER:
        plane[y - 1, x : x + 4] = plane[y - 1, x - 1]


# Whole macroblocks -----------------------------------------------------------------------------------------------


@part_kernel
def _left_sum(plane, y, x, size):
    total = np.int64(0)
    for row in range(y, y + size):
        total += np.int64(plane[row, x - 1])
    return total


@part_kernel
def _mean(above_sum, left_sum, has_above, has_left, shift):
    """Mean of the neighbours there are, 2**shift pixels on each side; 128 if there are none (section 12.2)."""
    if has_above and has_left:
        return (above_sum + left_sum + (1 << shift)) >> (shift + 1)
    if has_above:
        return (above_sum + (1 << (shift - 1))) >> shift
    if has_left:
        return (left_sum + (1 << (shift - 1))) >> shift
    return np.int64(128)


@kernel
def predict_16x16(plane, y, x, mode, destination, to_y, to_x):
    """Predict the luma of a macroblock by DC_PRED, V_PRED, H_PRED or TM_PRED (section 12.2 and 12.3)."""
    above = simd.load16(plane, y - 1, x)
    if mode == DC_PRED:
        left_sum = _left_sum(plane, y, x, 16)
        mean = simd.i16x16(_mean(simd.lane_sum(above), left_sum, y > BORDER, x > BORDER, 4))
        for row in range(16):
            simd.store(mean, destination, to_y + row, to_x)
    elif mode == V_PRED:
        for row in range(16):
            simd.store(above, destination, to_y + row, to_x)
    elif mode == H_PRED:
        for row in range(16):
            simd.store(simd.i16x16(np.int64(plane[y + row, x - 1])), destination, to_y + row, to_x)
    else:
        slope = above - np.int64(plane[y - 1, x - 1])
        for row in range(16):
            simd.store(slope + np.int64(plane[y + row, x - 1]), destination, to_y + row, to_x)


@kernel
def predict_8x8(plane, y, x, mode, destination, to_y, to_x):
    """Predict one chroma plane of a macroblock by DC_PRED, V_PRED, H_PRED or TM_PRED (section 12.2)."""
    above = simd.load8(plane, y - 1, x)
    if mode == DC_PRED:
        left_sum = _left_sum(plane, y, x, 8)
        mean = simd.i16x8(_mean(simd.lane_sum(above), left_sum, y > BORDER, x > BORDER, 3))
        for row in range(8):
            simd.store(mean, destination, to_y + row, to_x)
    elif mode == V_PRED:
        for row in range(8):
            simd.store(above, destination, to_y + row, to_x)
    elif mode == H_PRED:
        for row in range(8):
            simd.store(simd.i16x8(np.int64(plane[y + row, x - 1])), destination, to_y + row, to_x)
    else:
        slope = above - np.int64(plane[y - 1, x - 1])
        for row in range(8):
            simd.store(slope + np.int64(plane[y + row, x - 1]), destination, to_y + row, to_x)


@kernel
def predict_chroma(picture, mb_row, mb_col, mode):
    """Predict both chroma planes of a macroblock in place."""
    y = BORDER + 8 * mb_row
    x = BORDER + 8 * mb_col
    predict_8x8(picture.u, y, x, mode, picture.u, y, x)
    predict_8x8(picture.v, y, x, mode, picture.v, y, x)


# Subblocks -------------------------------------------------------------------------------------------------------


@part_kernel
def _avg2(a, b):
    return (a + b + 1) >> 1


@part_kernel
def _avg3(a, b, c):
    return (a + 2 * b + c + 2) >> 2


@part_kernel
def _put(destination, y, x, a, b, c, d):
    destination[y, x] = a
    destination[y, x + 1] = b
    destination[y, x + 2] = c
    destination[y, x + 3] = d


@kernel
def predict_subblock(plane, y, x, mode, right_y, destination, to_y, to_x):
    """Predict a 4x4 luma subblock by one of the ten modes B_DC_PRED .. B_HU_PRED (section 12.3).

    The four pixels above and to the right are taken from row `right_y`: y - 1, but for the subblocks of
    a macroblock's last column the row above the macroblock (where `extend_above_right` must have been called).
    """
    p = np.int64(plane[y - 1, x - 1])
    a0 = np.int64(plane[y - 1, x])
    a1 = np.int64(plane[y - 1, x + 1])
    a2 = np.int64(plane[y - 1, x + 2])
    a3 = np.int64(plane[y - 1, x + 3])
    l0 = np.int64(plane[y, x - 1])
    l1 = np.int64(plane[y + 1, x - 1])
    l2 = np.int64(plane[y + 2, x - 1])
    l3 = np.int64(plane[y + 3, x - 1])
    if mode == B_DC_PRED:
        mean = simd.i16x4((a0 + a1 + a2 + a3 + l0 + l1 + l2 + l3 + 4) >> 3)
        for row in range(to_y, to_y + 4):
            simd.store(mean, destination, row, to_x)
    elif mode == B_TM_PRED:
        slope = simd.load4(plane, y - 1, x) - p
        simd.store(slope + l0, destination, to_y, to_x)
        simd.store(slope + l1, destination, to_y + 1, to_x)
        simd.store(slope + l2, destination, to_y + 2, to_x)
        simd.store(slope + l3, destination, to_y + 3, to_x)
    elif mode == B_VE_PRED:
        a4 = np.int64(plane[right_y, x + 4])
        b0 = _avg3(p, a0, a1)
        b1 = _avg3(a0, a1, a2)
        b2 = _avg3(a1, a2, a3)
        b3 = _avg3(a2, a3, a4)
        for row in range(to_y, to_y + 4):
            _put(destination, row, to_x, b0, b1, b2, b3)
    elif mode == B_HE_PRED:
        simd.store(simd.i16x4(_avg3(p, l0, l1)), destination, to_y, to_x)
        simd.store(simd.i16x4(_avg3(l0, l1, l2)), destination, to_y + 1, to_x)
        simd.store(simd.i16x4(_avg3(l1, l2, l3)), destination, to_y + 2, to_x)
        simd.store(simd.i16x4(_avg3(l2, l3, l3)), destination, to_y + 3, to_x)
    elif mode == B_LD_PRED:
        a4 = np.int64(plane[right_y, x + 4])
        a5 = np.int64(plane[right_y, x + 5])
        a6 = np.int64(plane[right_y, x + 6])
        a7 = np.int64(plane[right_y, x + 7])
        b1 = _avg3(a1, a2, a3)
        b2 = _avg3(a2, a3, a4)
        b3 = _avg3(a3, a4, a5)
        b4 = _avg3(a4, a5, a6)
        b5 = _avg3(a5, a6, a7)
        _put(destination, to_y, to_x, _avg3(a0, a1, a2), b1, b2, b3)
        _put(destination, to_y + 1, to_x, b1, b2, b3, b4)
        _put(destination, to_y + 2, to_x, b2, b3, b4, b5)
        _put(destination, to_y + 3, to_x, b3, b4, b5, _avg3(a6, a7, a7))
    elif mode == B_RD_PRED:
        b1 = _avg3(l2, l1, l0)
        b2 = _avg3(l1, l0, p)
        b3 = _avg3(l0, p, a0)
        b4 = _avg3(p, a0, a1)
        b5 = _avg3(a0, a1, a2)
        _put(destination, to_y + 3, to_x, _avg3(l3, l2, l1), b1, b2, b3)
        _put(destination, to_y + 2, to_x, b1, b2, b3, b4)
        _put(destination, to_y + 1, to_x, b2, b3, b4, b5)
        _put(destination, to_y, to_x, b3, b4, b5, _avg3(a1, a2, a3))
    elif mode == B_VL_PRED:
        a4 = np.int64(plane[right_y, x + 4])
        a5 = np.int64(plane[right_y, x + 5])
        a6 = np.int64(plane[right_y, x + 6])
        a7 = np.int64(plane[right_y, x + 7])
        b1 = _avg2(a1, a2)
        b2 = _avg2(a2, a3)
        b3 = _avg2(a3, a4)
        c1 = _avg3(a1, a2, a3)
        c2 = _avg3(a2, a3, a4)
        c3 = _avg3(a3, a4, a5)
        # The last two pixels of the last column do not follow the pattern (section 12.3).
        _put(destination, to_y, to_x, _avg2(a0, a1), b1, b2, b3)
        _put(destination, to_y + 1, to_x, _avg3(a0, a1, a2), c1, c2, c3)
        _put(destination, to_y + 2, to_x, b1, b2, b3, _avg3(a4, a5, a6))
        _put(destination, to_y + 3, to_x, c1, c2, c3, _avg3(a5, a6, a7))
    elif mode == B_HD_PRED:
        b0 = _avg2(l3, l2)
        c0 = _avg3(l3, l2, l1)
        b1 = _avg2(l2, l1)
        c1 = _avg3(l2, l1, l0)
        b2 = _avg2(l1, l0)
        c2 = _avg3(l1, l0, p)
        b3 = _avg2(l0, p)
        c3 = _avg3(l0, p, a0)
        _put(destination, to_y + 3, to_x, b0, c0, b1, c1)
        _put(destination, to_y + 2, to_x, b1, c1, b2, c2)
        _put(destination, to_y + 1, to_x, b2, c2, b3, c3)
        _put(destination, to_y, to_x, b3, c3, _avg3(p, a0, a1), _avg3(a0, a1, a2))
    elif mode == B_HU_PRED:
        b1 = _avg2(l1, l2)
        c1 = _avg3(l1, l2, l3)
        b2 = _avg2(l2, l3)
        c2 = _avg3(l2, l3, l3)
        _put(destination, to_y, to_x, _avg2(l0, l1), _avg3(l0, l1, l2), b1, c1)
        _put(destination, to_y + 1, to_x, b1, c1, b2, c2)
        _put(destination, to_y + 2, to_x, b2, c2, l3, l3)
        _put(destination, to_y + 3, to_x, l3, l3, l3, l3)
    else:  # B_VR_PRED
        b0 = _avg3(l1, l0, p)
        c0 = _avg3(l0, p, a0)
        b1 = _avg2(p, a0)
        c1 = _avg3(p, a0, a1)
        b2 = _avg2(a0, a1)
        c2 = _avg3(a0, a1, a2)
        b3 = _avg2(a1, a2)
        c3 = _avg3(a1, a2, a3)
        _put(destination, to_y, to_x, b1, b2, b3, _avg2(a2, a3))
        _put(destination, to_y + 1, to_x, c0, c1, c2, c3)
        _put(destination, to_y + 2, to_x, b0, b1, b2, b3)
        _put(destination, to_y + 3, to_x, _avg3(l2, l1, l0), c0, c1, c2)
