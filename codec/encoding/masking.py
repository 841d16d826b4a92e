"""Where errors show less: rates weigh more in busy macroblocks and less in flat ones (libvpx's --tune=ssim).

Structural similarity divides a window's error by its variance, so the same bits buy more of it in flat areas. Rates weigh
by the root of the variance, half of what that asks for, since the rest is seen in the neighbours that predict from here.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from codec import simd
from codec.frame import BORDER, Picture
from codec.kernel import kernel

FLAT_ACTIVITY = 4096
"""Added to each activity, so that flat macroblocks do not differ for a trifle: a variance of 16 in each quarter x 64."""
LEAST_FACTOR, LARGEST_FACTOR = 256 // 5, 256 * 5


def activity_masking(
    picture: Picture, least: int = LEAST_FACTOR, largest: int = LARGEST_FACTOR
) -> NDArray[np.int32]:
    """Factors (R, C) x 256 of the rate multiplier, least .. largest: roots of activities over their mean."""
    activity = np.empty((picture.rows, picture.columns), np.int64)
    measure_activity(picture.y, activity)
    roots = np.sqrt(256.0 * (activity + FLAT_ACTIVITY)).astype(np.int64)
    mean = int(roots.sum()) // roots.size
    return np.clip(256 * roots // mean, least, largest).astype(np.int32)


@kernel
def measure_activity(plane, activity):
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
            activity[mb_row, mb_col] = total
