"""How far original pictures predict each other: where each macroblock of one lies in another, and the error that is left."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from codec.encoding.half_pixels import interpolate_half_pixels
from codec.encoding.motion_search import Target, search_16x16
from codec.encoding.satd import sad8x8, sad16x16, sse16x16
from codec.frame import BORDER, Picture, Plane, new_picture
from codec.kernel import kernel
from codec.motion import LARGEST_MAGNITUDE
from codec.predict_inter import predict_inter_luma

LEAP = (256 * 12) << 12
"""A macroblock whose SATD is beyond 3072, twelve a pixel, is looked for far away too."""

REDUCTION = 8
"""Pixels a side that are one in the reduced pictures, in which blocks of four by four macroblocks are looked for."""
LOST = 256 * 64
"""Mean squared error of a block's macroblocks from which on it is looked for there."""
FARTHEST = 24
"""Reduced pixels in each direction; a vector cannot be much longer."""
CLOSE = 7
"""Pixels around what is found there, all of which are tried."""


class MotionField(NamedTuple):
    """Where the macroblocks of a picture lie in another one."""

    vectors: NDArray[np.int16]  # (R, C, 2) in quarter pixels, as of motion vectors
    errors: NDArray[np.int64]  # (R, C) squared errors of luma that are left
    predicted: Plane  # padded luma, as these vectors predict it; its border means nothing


def follow_motion(picture: Picture, others: Sequence[Picture]) -> Iterator[MotionField]:
    """The field of `picture` in each of `others`, which lie ever farther from it: each search starts from the one before.

    Raises ValueError for pictures of another size.
    """
    if any(other.y.shape != picture.y.shape for other in others):
        raise ValueError("pictures of different sizes do not predict each other")
    vectors = np.zeros((picture.rows, picture.columns, 2), np.int16)
    free = np.zeros((2, 2 * LARGEST_MAGNITUDE + 1), np.int32)
    for other in others:
        predicted = new_picture(picture.rows, picture.columns).y
        errors = np.empty(vectors.shape[:2], np.int64)
        vectors = vectors.copy()
        planes = interpolate_half_pixels(other.y)
        _follow(
            picture.y,
            other.y,
            planes,
            free,
            vectors,
            errors,
            predicted,
            np.zeros((4, 2), np.int64),
            np.zeros(2, np.int64),
            np.zeros((16, 2), np.int16),
        )
        _follow_far(
            _reduced(picture),
            _reduced(other),
            picture.y,
            other.y,
            planes,
            free,
            vectors,
            errors,
            predicted,
            np.zeros((2, 2), np.int64),
            np.zeros(2, np.int64),
            np.zeros((16, 2), np.int16),
        )
        yield MotionField(vectors, errors, predicted)


@kernel
def _follow(luma, other, planes, rates, vectors, errors, predicted, starts, found, candidate):
    """Search every macroblock of `luma` in `other` (`planes` are its half-pixel planes) from zero, `vectors` and neighbours."""
    rows, columns = errors.shape
    for mb_row in range(rows):
        for mb_col in range(columns):
            starts[0, 0] = starts[0, 1] = 0
            starts[1, 0] = vectors[mb_row, mb_col, 0]
            starts[1, 1] = vectors[mb_row, mb_col, 1]
            count = 2
            if mb_col > 0:
                starts[count, 0] = vectors[mb_row, mb_col - 1, 0]
                starts[count, 1] = vectors[mb_row, mb_col - 1, 1]
                count += 1
            if mb_row > 0:
                starts[count, 0] = vectors[mb_row - 1, mb_col, 0]
                starts[count, 1] = vectors[mb_row - 1, mb_col, 1]
                count += 1
            y, x = BORDER + 16 * mb_row, BORDER + 16 * mb_col
            search_16x16(Target(luma, planes, y, x, 0, 0, rates, 0), starts, count, LEAP, found)
            for block in range(16):
                candidate[block, 0], candidate[block, 1] = found[0], found[1]
            predict_inter_luma(other, candidate, False, 0, 0, predicted, mb_row, mb_col)
            vectors[mb_row, mb_col, 0], vectors[mb_row, mb_col, 1] = found[0], found[1]
            errors[mb_row, mb_col] = sse16x16(luma, y, x, predicted, y, x)


def _reduced(picture: Picture) -> Plane:
    """Means of luma over squares of REDUCTION pixels, without the border: (2 R, 2 C)."""
    inside = picture.y[BORDER:-BORDER, BORDER:-BORDER]
    rows, columns = inside.shape[0] // REDUCTION, inside.shape[1] // REDUCTION
    squares = inside.reshape(rows, REDUCTION, columns, REDUCTION)
    return (squares.sum(axis=(1, 3), dtype=np.int32) // REDUCTION**2).astype(np.uint8)


@kernel
def _follow_far(
    reduced,
    reduced_other,
    luma,
    other,
    planes,
    rates,
    vectors,
    errors,
    predicted,
    starts,
    found,
    candidate,
):
    """Look for blocks that were lost in the whole neighbourhood of their place: text that was scrolled, fast pans."""
    rows, columns = errors.shape
    if rows < 4 or columns < 4:
        return
    for block_row in range(0, rows, 4):
        for block_column in range(0, columns, 4):
            first_row, first_column = min(block_row, rows - 4), min(block_column, columns - 4)
            if not _is_lost(errors, first_row, first_column):
                continue
            _find_block(reduced, reduced_other, first_row, first_column, found)
            if found[0] == 0 and found[1] == 0:
                continue
            far_row, far_column = 4 * REDUCTION * found[0], 4 * REDUCTION * found[1]
            _come_closer(luma, other, errors, first_row, first_column, far_row, far_column, found)
            far_row, far_column = found[0], found[1]
            for mb_row in range(first_row, first_row + 4):
                for mb_col in range(first_column, first_column + 4):
                    starts[0, 0], starts[0, 1] = far_row, far_column
                    y, x = BORDER + 16 * mb_row, BORDER + 16 * mb_col
                    target = Target(luma, planes, y, x, 0, 0, rates, 0)
                    search_16x16(target, starts, 1, np.int64(1) << 60, found)
                    _take_if_better(
                        luma, other, mb_row, mb_col, found, vectors, errors, predicted, candidate
                    )


@kernel
def _is_lost(errors, first_row, first_column):
    total = np.int64(0)
    for row in range(first_row, first_row + 4):
        for column in range(first_column, first_column + 4):
            total += errors[row, column]
    return total > 16 * LOST


@kernel
def _find_block(reduced, other, first_row, first_column, found):
    """The shift of least differences of a block of 8 by 8 reduced pixels, into found (2,) int64."""
    height, width = reduced.shape
    y, x = 2 * first_row, 2 * first_column
    found[0] = found[1] = 0
    best = np.int64(sad8x8(reduced, y, x, other, y, x))
    for at_y in range(max(0, y - FARTHEST), min(height - 8, y + FARTHEST) + 1):
        for at_x in range(max(0, x - FARTHEST), min(width - 8, x + FARTHEST) + 1):
            distance = np.int64(sad8x8(reduced, y, x, other, at_y, at_x))
            if distance < best:
                best = distance
                found[0], found[1] = at_y - y, at_x - x


@kernel
def _come_closer(luma, other, errors, first_row, first_column, v_row, v_column, found):
    """The best vector of whole pixels around one, for the worst macroblock of a block, into found (2,) int64."""
    worst_row, worst_column = first_row, first_column
    for row in range(first_row, first_row + 4):
        for column in range(first_column, first_column + 4):
            if errors[row, column] > errors[worst_row, worst_column]:
                worst_row, worst_column = row, column
    y, x = BORDER + 16 * worst_row, BORDER + 16 * worst_column
    to_y, to_x = y + (v_row >> 2), x + (v_column >> 2)
    height, width = luma.shape
    best = np.int64(1) << 60
    for at_y in range(max(to_y - CLOSE, 0), min(to_y + CLOSE, height - 16) + 1):
        for at_x in range(max(to_x - CLOSE, 0), min(to_x + CLOSE, width - 16) + 1):
            distance = np.int64(sad16x16(luma, y, x, other, at_y, at_x))
            if distance < best:
                best = distance
                found[0], found[1] = 4 * (at_y - y), 4 * (at_x - x)


@kernel
def _take_if_better(luma, other, mb_row, mb_col, found, vectors, errors, predicted, candidate):
    """Take the vector in `found` for a macroblock, unless the one that it has predicts better."""
    for block in range(16):
        candidate[block, 0], candidate[block, 1] = found[0], found[1]
    predict_inter_luma(other, candidate, False, 0, 0, predicted, mb_row, mb_col)
    y, x = BORDER + 16 * mb_row, BORDER + 16 * mb_col
    error = sse16x16(luma, y, x, predicted, y, x)
    if error < errors[mb_row, mb_col]:
        vectors[mb_row, mb_col, 0], vectors[mb_row, mb_col, 1] = found[0], found[1]
        errors[mb_row, mb_col] = error
        return
    for block in range(16):
        candidate[block, 0] = vectors[mb_row, mb_col, 0]
        candidate[block, 1] = vectors[mb_row, mb_col, 1]
    predict_inter_luma(other, candidate, False, 0, 0, predicted, mb_row, mb_col)
