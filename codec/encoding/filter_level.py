"""Choice of the loop filter's level: the one whose filtered luma is nearest to the source (RFC 6386 section 9.6).

A search in ever smaller steps around a guess, with a bias towards weak filters, as libvpx does it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from codec.encoding.satd import sse16x16
from codec.frame import BORDER, Macroblocks, Picture, Plane
from codec.kernel import kernel
from codec.loop_filter import MAX_LEVEL, all_filter_levels, loop_filter_luma, macroblock_levels
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
    band = _Band(source, picture, macroblocks, key_frame)
    trials = [_Trial(band, segmentation, deltas) for deltas in candidates]
    levels = [_choose_level(trial, guess) for trial in trials]
    errors = [trial.error(level) for trial, level in zip(trials, levels, strict=True)]
    best = errors.index(min(errors))
    return candidates[best], levels[best]


def _choose_level(trial: _Trial, guess: int) -> int:
    middle = min(max(guess, 0), MAX_LEVEL)
    step = 4 if middle < 16 else middle // 4
    best, best_error = middle, trial.error(middle)
    direction = 0
    while step > 0:
        bias = (best_error >> (15 - middle // 8)) * step
        low, high = max(middle - step, 0), min(middle + step, MAX_LEVEL)
        if direction <= 0 and low != middle:
            error = trial.error(low)
            if error - bias < best_error:
                best, best_error = low, min(error, best_error)
        if direction >= 0 and high != middle:
            error = trial.error(high)
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
    """The luma of the rows in the middle of a picture, filtered in one way after another."""

    def __init__(
        self, source: Picture, picture: Picture, macroblocks: Macroblocks, key_frame: bool
    ) -> None:
        rows = picture.rows
        first = max((rows - BAND_ROWS) // 2, 0)
        end = min(first + BAND_ROWS, rows)
        self._source = _cut(source.y, first, end)
        self._plane = _cut(picture.y, first, end)
        self._filtered = np.empty_like(self._plane)
        self._macroblocks = Macroblocks._make(array[first:end] for array in macroblocks)
        self._key_frame = key_frame
        self._errors: dict[bytes, int] = {}

    def error(self, table: NDArray[np.uint8]) -> int:
        """Squared error under a table of `filter_levels`; different ones often say the same of all macroblocks."""
        levels = np.empty(self._macroblocks.y_mode.shape, np.uint8)
        inner = np.empty_like(levels)
        macroblock_levels(self._macroblocks, table, levels, inner)
        key = levels.tobytes()
        if key not in self._errors:
            self._errors[key] = self._measure(levels, inner)
        return self._errors[key]

    def _measure(self, levels: NDArray[np.uint8], inner: NDArray[np.uint8]) -> int:
        if not levels.any():
            return int(_luma_error(self._source, self._plane))
        self._filtered[:] = self._plane
        loop_filter_luma(self._filtered, levels, inner, self._key_frame)
        return int(_luma_error(self._source, self._filtered))


class _Trial:
    """A band under some deltas and one level after another."""

    def __init__(self, band: _Band, segmentation: Segmentation, deltas: FilterDeltas) -> None:
        self._band = band
        self._tables = all_filter_levels(segmentation, deltas)
        self._errors: dict[int, int] = {}

    def error(self, level: int) -> int:
        """Squared luma error under a level."""
        if level not in self._errors:
            self._errors[level] = self._band.error(self._tables[level])
        return self._errors[level]


def _cut(plane: Plane, first: int, end: int) -> Plane:
    """Rows first .. end - 1 of macroblocks of padded luma; what was around them is its border."""
    return plane[16 * first : 16 * end + 2 * BORDER]


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
