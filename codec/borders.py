"""The border of a finished picture, which vectors may point into: RFC 6386 sections 5 and 18."""

from __future__ import annotations

import numpy as np

from codec import simd
from codec.frame import BORDER
from codec.kernel import kernel, part_kernel


@kernel
def extend_borders(picture):
    """Repeat the edge pixels of all three planes into their borders, in place."""
    extend_plane(picture.y)
    extend_plane(picture.u)
    extend_plane(picture.v)


@kernel
def extend_plane(plane):
    """Repeat the edge pixels of one plane into its border, in place."""
    bottom = plane.shape[0] - BORDER
    right = plane.shape[1] - BORDER
    for y in range(BORDER, bottom):
        left_edge = simd.i16x16(np.int64(plane[y, BORDER]))
        right_edge = simd.i16x16(np.int64(plane[y, right - 1]))
        for x in range(0, BORDER, 16):
            simd.store(left_edge, plane, y, x)
            simd.store(right_edge, plane, y, right + x)
    for y in range(BORDER):
        _copy_row(plane, BORDER, y)
        _copy_row(plane, bottom - 1, bottom + y)


@part_kernel
def _copy_row(plane, y, to_y):
    for x in range(0, plane.shape[1], 8):  # the width is a multiple of 8
        simd.store(simd.load8(plane, y, x), plane, to_y, x)
