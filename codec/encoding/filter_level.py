"""Choice of the loop filter's level: the one whose filtered luma is nearest to the source (RFC 6386 section 9.6).

A search in ever smaller steps around a guess, with a bias towards weak filters, as libvpx does it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from codec.encoding.satd import sse16x16
from codec.frame import BORDER, Macroblocks, Picture
from codec.kernel import kernel
from codec.loop_filter import MAX_LEVEL, filter_levels, loop_filter_picture, macroblock_levels
from codec.state import FilterDeltas, Segmentation

BAND_ROWS = 16
"""Rows of macroblocks that are looked at: as many in the middle of the picture."""


def choose_filter(
    source: Picture,
    picture: Picture,
    macroblocks: Macroblocks,
    segmentation: Segmentation,
    candidates: Sequence[FilterDeltas],
    *,
    guess: int,
    key_frame: bool,
) -> tuple[FilterDeltas, int]:
    """The deltas and the level 0..63 for a reconstructed, not yet filtered picture; the first of candidates that do as well."""
    bands = [_Band(source, picture, macroblocks, segmentation, d, key_frame) for d in candidates]
    levels = [_choose_level(band, guess) for band in bands]
    errors = [band.error(level) for band, level in zip(bands, levels, strict=True)]
    best = errors.index(min(errors))
    return candidates[best], levels[best]


def _choose_level(band: _Band, guess: int) -> int:
    middle = min(max(guess, 0), MAX_LEVEL)
    step = 4 if middle < 16 else middle // 4
    best, best_error = middle, band.error(middle)
    direction = 0
    while step > 0:
        bias = (best_error >> (15 - middle // 8)) * step
        low, high = max(middle - step, 0), min(middle + step, MAX_LEVEL)
        if direction <= 0 and low != middle:
            error = band.error(low)
            if error - bias < best_error:
                best, best_error = low, min(error, best_error)
        if direction >= 0 and high != middle:
            error = band.error(high)
            if error < best_error - bias:
                best, best_error = high, error
        if best == middle:
            step //= 2
            direction = 0
        else:
            direction = -1 if best < middle else 1
            middle = best
    return best


class _Band:
    """The rows in the middle of a picture, filtered by one level after another."""

    def __init__(
        self,
        source: Picture,
        picture: Picture,
        macroblocks: Macroblocks,
        segmentation: Segmentation,
        deltas: FilterDeltas,
        key_frame: bool,
    ) -> None:
        rows = picture.rows
        first = max((rows - BAND_ROWS) // 2, 0)
        end = min(first + BAND_ROWS, rows)
        self._source = _cut(source, first, end)
        self._picture = _cut(picture, first, end)
        self._filtered = Picture(*(np.empty_like(plane) for plane in self._picture))
        self._macroblocks = Macroblocks._make(array[first:end] for array in macroblocks)
        self._segmentation = segmentation
        self._deltas = deltas
        self._key_frame = key_frame
        self._errors: dict[int, int] = {}

    def error(self, level: int) -> int:
        """Squared luma error under a level."""
        if level not in self._errors:
            self._errors[level] = self._measure(level)
        return self._errors[level]

    def _measure(self, level: int) -> int:
        for plane, copy in zip(self._picture, self._filtered, strict=True):
            copy[:] = plane
        if level:
            levels = np.empty(self._macroblocks.y_mode.shape, np.uint8)
            inner = np.empty_like(levels)
            table = filter_levels(level, self._segmentation, self._deltas)
            macroblock_levels(self._macroblocks, table, levels, inner)
            loop_filter_picture(self._filtered, levels, inner, 0, False, self._key_frame)
        return int(_luma_error(self._source.y, self._filtered.y))


def _cut(picture: Picture, first: int, end: int) -> Picture:
    """Rows first .. end - 1 of macroblocks as a picture; what was around them is its border."""
    sizes = (16, 8, 8)
    return Picture(
        *(
            np.ascontiguousarray(plane[size * first : size * end + 2 * BORDER])
            for plane, size in zip(picture, sizes, strict=True)
        )
    )


@kernel
def _luma_error(source, plane):
    total = np.int64(0)
    for y in range(BORDER, plane.shape[0] - BORDER, 16):
        for x in range(BORDER, plane.shape[1] - BORDER, 16):
            total += sse16x16(source, y, x, plane, y, x)
    return total


def guess_filter_level(ac_step: int) -> int:
    """A level to start from, by the luma AC step."""
    return min(ac_step // 4, MAX_LEVEL)
