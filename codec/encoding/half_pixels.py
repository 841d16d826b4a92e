"""A reference's luma at half-pixel positions, made once a frame so that the motion search only ever compares blocks.

Even quarter positions are what the decoder predicts (section 18.3); odd ones are approximated by averages of two.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from codec import simd
from codec.frame import Plane
from codec.kernel import inline_kernel, kernel

MARGIN = 8
"""Rows and columns at the edges of the padded plane that are not interpolated; no search reaches them."""


HalfPixels = NDArray[np.uint8]
"""(4, H, W): a padded plane as it is, half a pixel right, half a pixel down, and both."""


def interpolate_half_pixels(plane: Plane) -> HalfPixels:
    """The half-pixel planes of a padded plane (H, W) uint8."""
    interpolated = np.empty((4, *plane.shape), np.uint8)
    interpolated[0] = plane
    _interpolate(interpolated)
    return interpolated


_Entries = dict[int, tuple[weakref.ref[Plane], HalfPixels]]


class _Kept(threading.local):
    """Half-pixel planes from the last call of this thread, by the identity of what they were made from."""

    def __init__(self) -> None:
        self.planes: _Entries = {}


_kept = _Kept()


def half_pixels_of(planes: Sequence[Plane]) -> list[HalfPixels]:
    """`interpolate_half_pixels` of each of the planes, which must not change any more.

    Frame after frame leans on the same GOLDEN and ALTREF, so what one call has made is kept until the thread's next, if the
    plane that it was made from lives as long.
    """
    now: _Entries = {}
    found = []
    for plane in planes:
        entry = _kept.planes.get(id(plane))
        is_known = entry is not None and entry[0]() is plane
        found.append(entry[1] if entry and is_known else interpolate_half_pixels(plane))
        now[id(plane)] = _while_alive(plane, now), found[-1]
    last, _kept.planes = _kept.planes, now
    last.clear()  # it holds itself, by what its references do when planes go
    return found


def _while_alive(plane: Plane, entries: _Entries) -> weakref.ref[Plane]:
    """A reference that takes the plane's entry away when the plane goes."""
    key = id(plane)
    return weakref.ref(plane, lambda _: entries.pop(key, None))


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
