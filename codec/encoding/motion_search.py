"""Search for motion vectors: whole pixels by absolute differences, then halves and quarters by SATD, and the vector's rate.

Vectors are (row, column) in quarter pixels. Blocks are compared with `interpolate_half_pixels`' planes; a vector of odd
quarters is measured on the average of its two nearest half-pixel blocks. The figure to minimise is
``(satd << SATD_SHIFT) + rate * multiplier`` with rates in bits x 256; absolute differences are on the scale of a SATD.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from codec.encoding.satd import (
    sad4x4,
    sad8x8,
    sad16x16,
    satd4x4,
    satd4x4_of_average,
    satd8x8,
    satd8x8_of_average,
    satd16x16,
    satd16x16_of_average,
)
from codec.frame import BORDER
from codec.kernel import inline_kernel, kernel
from codec.motion import LARGEST_MAGNITUDE

SATD_SHIFT = 12
SATD_WEIGHT = 16 * 0.167
"""The square root of the weight of a bit against squared errors (0.028 a squared quantizer step), in sixteenths."""

REACH = 18
"""Pixels by which a searched block may lie outside the picture, above and to the left; 16 more below and to the right."""

WIDEST_LEAP = 32
"""Pixels of the first leap of a search that goes far."""

_FAR = np.int64(1) << 60
_HEXAGON = np.array([[0, -8], [-8, -4], [-8, 4], [0, 8], [8, 4], [8, -4]], np.int64)
_SQUARE = np.array([[-1, 0], [0, -1], [0, 1], [1, 0], [-1, -1], [-1, 1], [1, -1], [1, 1]], np.int64)


def satd_multiplier(dc_step: int, rate_weight: float = 1.0) -> int:
    """How much a bit x 256 weighs against a SATD for a luma DC step; `rate_weight` as of `rate_multiplier`."""
    return max(1, round(SATD_WEIGHT * math.sqrt(rate_weight) * min(int(dc_step), 160)))


class Window(NamedTuple):
    """Vectors that a search may try, both ends included."""

    top: int
    bottom: int
    left: int
    right: int


@inline_kernel
def search_window(height, width, y, x, best_row, best_column):
    """The window of a macroblock at (y, x) of a padded plane: what the planes hold and a difference from the best can say."""
    longest = LARGEST_MAGNITUDE - 8
    return Window(
        max(4 * (BORDER - REACH - y), max(best_row - longest, np.int64(-16000))),
        min(4 * (height - BORDER + REACH - 16 - y), min(best_row + longest, np.int64(16000))),
        max(4 * (BORDER - REACH - x), max(best_column - longest, np.int64(-16000))),
        min(4 * (width - BORDER + REACH - 16 - x), min(best_column + longest, np.int64(16000))),
    )


@inline_kernel
def is_inside(window, v_row, v_column):
    return (
        (v_row >= window.top)
        & (v_row <= window.bottom)
        & (v_column >= window.left)
        & (v_column <= window.right)
    )


@inline_kernel
def is_among(vectors, count, row, column):
    """Whether a vector is one of the first `count` of vectors (N, 2)."""
    found = False
    for i in range(count):
        found = found | ((vectors[i, 0] == row) & (vectors[i, 1] == column))
    return found


@inline_kernel
def vector_rate(rates, v_row, v_column, best_row, best_column):
    """Rate of a vector's difference from the best one, under `vector_rates`."""
    return np.int64(rates[0, v_row - best_row + LARGEST_MAGNITUDE]) + np.int64(
        rates[1, v_column - best_column + LARGEST_MAGNITUDE]
    )


class Target(NamedTuple):
    """What a search looks for, and what vectors cost."""

    source: Any  # (H, W) uint8 padded luma
    planes: Any  # (4, H, W) uint8 half-pixel planes of the reference
    y: int
    x: int
    best_row: int
    best_column: int
    rates: Any  # (2, 2 LARGEST_MAGNITUDE + 1) int32
    multiplier: int


def _block_search(
    sad: Callable[..., Any], satd: Callable[..., Any], satd_of_average: Callable[..., Any]
) -> tuple[Callable[..., Any], ...]:
    """Make the kernels for one block size: measure one vector; walk to the best near a start; go to quarter pixels; all of it."""

    @kernel
    def measure(source, planes, y, x, v_row, v_column):
        """SATD of a vector."""
        r0 = v_row & ~1
        c0 = v_column & ~1
        if ((v_row | v_column) & 1) == 0:
            plane = planes[(r0 & 2) + ((c0 >> 1) & 1)]
            return satd(source, y, x, plane, y + (r0 >> 2), x + (c0 >> 2))
        r1 = r0 + 2 * (v_row & 1)
        c1 = c0 + 2 * (v_column & 1)
        if (v_row & v_column & 1) and (((r0 >> 1) + (c0 >> 1)) & 1) == 0:
            c0, c1 = c1, c0
        return satd_of_average(
            source,
            y,
            x,
            planes,
            (r0 & 2) + ((c0 >> 1) & 1),
            y + (r0 >> 2),
            x + (c0 >> 2),
            (r1 & 2) + ((c1 >> 1) & 1),
            y + (r1 >> 2),
            x + (c1 >> 2),
        )

    @inline_kernel
    def rate(target, v_row, v_column):
        bits = vector_rate(target.rates, v_row, v_column, target.best_row, target.best_column)
        return bits * target.multiplier

    @inline_kernel
    def rough_cost(target, v_row, v_column):
        """Cost of a vector of whole pixels by absolute differences."""
        y, x = target.y + (v_row >> 2), target.x + (v_column >> 2)
        distance = np.int64(sad(target.source, target.y, target.x, target.planes[0], y, x))
        return (distance << SATD_SHIFT) + rate(target, v_row, v_column)

    @inline_kernel
    def cost(target, v_row, v_column):
        distance = measure(target.source, target.planes, target.y, target.x, v_row, v_column)
        return (np.int64(distance) << SATD_SHIFT) + rate(target, v_row, v_column)

    @kernel
    def start(target, window, candidates, count, found):
        """Move found to the best of the first `count` candidates (N, 2) int64, which are rounded to whole pixels."""
        best = _FAR
        for i in range(count):
            row = min(max((candidates[i, 0] + 2) & ~3, (window.top + 3) & ~3), window.bottom & ~3)
            column = min(
                max((candidates[i, 1] + 2) & ~3, (window.left + 3) & ~3), window.right & ~3
            )
            candidates[i, 0], candidates[i, 1] = row, column
            if is_among(candidates, i, row, column):
                continue
            candidate = rough_cost(target, row, column)
            if candidate < best:
                best = candidate
                found[0], found[1] = row, column
        return best

    @kernel
    def step(target, window, pixels, best, found):
        """Try the square of so many pixels around found (2,) int64, and move there; gives the least cost."""
        v_row, v_column = found[0], found[1]
        for i in range(len(_SQUARE)):
            row = v_row + _SQUARE[i, 0] * 4 * pixels
            column = v_column + _SQUARE[i, 1] * 4 * pixels
            if is_inside(window, row, column):
                candidate = rough_cost(target, row, column)
                if candidate < best:
                    best = candidate
                    found[0], found[1] = row, column
        return best

    @kernel
    def leap(target, window, best, found):
        """From found, leap by ever fewer pixels."""
        pixels = WIDEST_LEAP
        while pixels > 2:
            best = step(target, window, pixels, best, found)
            pixels >>= 1
        return best

    @kernel
    def walk(target, window, best, found):
        """From found, walk by hexagons, and end by a square."""
        first, count = np.int64(0), np.int64(6)
        for _ in range(16):
            v_row, v_column = found[0], found[1]
            moved = np.int64(-1)
            for i in range(first, first + count):
                row, column = v_row + _HEXAGON[i % 6, 0], v_column + _HEXAGON[i % 6, 1]
                if is_inside(window, row, column):
                    candidate = rough_cost(target, row, column)
                    if candidate < best:
                        best, moved = candidate, i % 6
            if moved < 0:
                break
            found[0], found[1] = v_row + _HEXAGON[moved, 0], v_column + _HEXAGON[moved, 1]
            first, count = moved + 5, np.int64(3)  # the others lie on the hexagon before
        return step(target, window, 1, best, found)

    @inline_kernel
    def least_rate_around(target, v_row, v_column, quarters):
        """The least that the vectors around one cost for their rates alone."""
        row = v_row - target.best_row + LARGEST_MAGNITUDE
        column = v_column - target.best_column + LARGEST_MAGNITUDE
        rows, columns = target.rates[0], target.rates[1]
        above = np.int64(min(rows[row - quarters], rows[row + quarters]))
        beside = np.int64(min(columns[column - quarters], columns[column + quarters]))
        bits = min(above + min(beside, np.int64(columns[column])), np.int64(rows[row]) + beside)
        return bits * target.multiplier

    @kernel
    def approach(target, window, quarters, best, found):
        """Try the points beside, above and below found, and the corner between the better ones; move to the best."""
        v_row, v_column = found[0], found[1]
        if least_rate_around(target, v_row, v_column, quarters) >= best:
            return best
        row, column = v_row, v_column
        beside, above = _FAR, _FAR
        for offset in (-quarters, quarters):
            if is_inside(window, v_row, v_column + offset):
                candidate = cost(target, v_row, v_column + offset)
                if candidate < beside:
                    beside, column = candidate, v_column + offset
            if is_inside(window, v_row + offset, v_column):
                candidate = cost(target, v_row + offset, v_column)
                if candidate < above:
                    above, row = candidate, v_row + offset
        if beside < best:
            best = beside
            found[0], found[1] = v_row, column
        if above < best:
            best = above
            found[0], found[1] = row, v_column
        if row != v_row and column != v_column:
            corner = cost(target, row, column)
            if corner < best:
                best = corner
                found[0], found[1] = row, column
        return best

    @kernel
    def refine(target, window, found):
        """Move found to the best half, then quarter pixel around it; gives its cost."""
        best = cost(target, found[0], found[1])
        best = approach(target, window, 2, best, found)
        return approach(target, window, 1, best, found)

    @kernel
    def search(target, window, candidates, count, found):
        """Find a vector near the candidates; gives its cost."""
        best = start(target, window, candidates, count, found)
        best = walk(target, window, best, found)
        return refine(target, window, found)

    return measure, start, leap, walk, refine, search


measure_16x16, start_16x16, leap_16x16, walk_16x16, refine_16x16, _ = _block_search(
    sad16x16, satd16x16, satd16x16_of_average
)
measure_8x8, _, _, _, _, search_8x8 = _block_search(sad8x8, satd8x8, satd8x8_of_average)
measure_4x4, _, _, _, _, search_4x4 = _block_search(sad4x4, satd4x4, satd4x4_of_average)


@kernel
def search_16x16(target, candidates, count, leap, found):
    """Find a vector of a macroblock, into found (2,) int64; gives its cost.

    candidates (N, 2) int64: the first `count` are tried first, and left rounded to whole pixels. The search goes far where
    its cost would be over `leap`.
    """
    height, width = target.source.shape
    window = search_window(height, width, target.y, target.x, target.best_row, target.best_column)
    best = start_16x16(target, window, candidates, count, found)
    best = walk_16x16(target, window, best, found)
    if best > leap:
        before = best
        best = leap_16x16(target, window, best, found)
        if best < before:
            best = walk_16x16(target, window, best, found)
    return refine_16x16(target, window, found)
