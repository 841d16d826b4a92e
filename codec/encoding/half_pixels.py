"""A reference's luma at half-pixel positions, made once a frame so that the motion search only ever compares blocks.

Even quarter positions are what the decoder predicts (section 18.3); odd ones are approximated by averages of two.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from codec import simd
from codec.frame import Plane
from codec.kernel import inline_kernel, kernel

MARGIN = 8
"""Rows and columns at the edges of the padded plane that are not interpolated; no search reaches them."""


def interpolate_half_pixels(planes: Sequence[Plane]) -> NDArray[np.uint8]:
    """Planes (N, 4, H, W) uint8 of N padded planes: as they are, half a pixel right, half a pixel down, and both."""
    height, width = planes[0].shape if planes else (1, 1)
    interpolated = np.empty((len(planes), 4, height, width), np.uint8)
    for given, made in zip(planes, interpolated, strict=True):
        made[:] = given
        _interpolate(made)
    return interpolated


@inline_kernel
def _six_tap(a, b, c, d, e, f):
    """(3 a - 16 b + 77 c + 77 d - 16 e + 3 f + 64) >> 7 in 16 bits: 256 * 77 is taken out and given back."""
    return (((c + d - 256) * 77 - ((b + e) << 4) + (a + f) * 3 + 64) >> 7) + 154


@kernel
def _interpolate(planes):
    _, height, width = planes.shape
    for y in range(MARGIN - 3, height - MARGIN + 3):
        for x in range(MARGIN, width - MARGIN - 15, 16):
            _interpolate_right(planes, 0, 1, y, x)
        _interpolate_right(planes, 0, 1, y, width - MARGIN - 16)
    for y in range(MARGIN, height - MARGIN):
        for x in range(MARGIN, width - MARGIN - 15, 16):
            _interpolate_down(planes, 0, 2, y, x)
            _interpolate_down(planes, 1, 3, y, x)
        _interpolate_down(planes, 0, 2, y, width - MARGIN - 16)
        _interpolate_down(planes, 1, 3, y, width - MARGIN - 16)


@inline_kernel
def _interpolate_right(planes, i, j, y, x):
    simd.store(
        _six_tap(
            simd.load16(planes, i, y, x - 2),
            simd.load16(planes, i, y, x - 1),
            simd.load16(planes, i, y, x),
            simd.load16(planes, i, y, x + 1),
            simd.load16(planes, i, y, x + 2),
            simd.load16(planes, i, y, x + 3),
        ),
        planes,
        j,
        y,
        x,
    )


@inline_kernel
def _interpolate_down(planes, i, j, y, x):
    simd.store(
        _six_tap(
            simd.load16(planes, i, y - 2, x),
            simd.load16(planes, i, y - 1, x),
            simd.load16(planes, i, y, x),
            simd.load16(planes, i, y + 1, x),
            simd.load16(planes, i, y + 2, x),
            simd.load16(planes, i, y + 3, x),
        ),
        planes,
        j,
        y,
        x,
    )
