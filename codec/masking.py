"""Where errors show less: rates weigh more in busy macroblocks and less in flat ones (libvpx's --tune=ssim).

Structural similarity divides a window's error by its variance, so the same bits buy more of it in flat areas.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from codec import simd
from codec.frame import BORDER, Picture
from codec.kernel import kernel

LEAST_ACTIVITY = 64
"""So flat a macroblock counts as no flatter."""


def activity_masking(picture: Picture) -> NDArray[np.int32]:
    """Factors (R, C) x 256 of the rate multiplier, 128 .. 512: (2 a + m) / (a + 2 m) for activity a and its mean m."""
    activity = np.empty((picture.rows, picture.columns), np.int64)
    measure_activity(picture.y, activity)
    mean = max(int(activity.sum()) // activity.size, LEAST_ACTIVITY)
    return (256 * (2 * activity + mean) // (activity + 2 * mean)).astype(np.int32)


@kernel
def measure_activity(plane, activity):  # type: ignore[no-untyped-def]
    """Fill activity (R, C) int64: the variances x 64 of a macroblock's four 8x8 quarters, summed."""
    rows, columns = activity.shape
    ones = simd.i16x8(1)
    for mb_row in range(rows):
        for mb_col in range(columns):
            total = np.int64(0)
            for quarter in range(4):
                y = BORDER + 16 * mb_row + 8 * (quarter >> 1)
                x = BORDER + 16 * mb_col + 8 * (quarter & 1)
                sums = simd.i32x4(0)
                squares = simd.i32x4(0)
                for row in range(y, y + 8):
                    pixels = simd.load8(plane, row, x)
                    sums = sums + simd.dot_pairs(pixels, ones)
                    squares = squares + simd.dot_pairs(pixels, pixels)
                mean = simd.lane_sum(sums)
                total += simd.lane_sum(squares) - ((mean * mean) >> 6)
            activity[mb_row, mb_col] = max(total, np.int64(LEAST_ACTIVITY))
