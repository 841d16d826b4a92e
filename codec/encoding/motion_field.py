"""How far original pictures predict each other: where each macroblock of one lies in another, and the error that is left."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from codec.encoding.half_pixels import interpolate_half_pixels
from codec.encoding.motion_search import Target, search_16x16
from codec.encoding.satd import sse16x16
from codec.frame import BORDER, Picture, Plane, new_picture
from codec.kernel import kernel
from codec.motion import LARGEST_MAGNITUDE
from codec.predict_inter import predict_inter_luma

LEAP = (256 * 12) << 12
"""A macroblock whose SATD is beyond 3072, twelve a pixel, is looked for far away too."""


class MotionField(NamedTuple):
    """Where the macroblocks of a picture lie in another one."""

    vectors: NDArray[np.int16]  # (R, C, 2) in quarter pixels, as of motion vectors
    errors: NDArray[np.int64]  # (R, C) squared errors of luma that are left
    predicted: Plane  # padded luma, as these vectors predict it; its border means nothing


def follow_motion(picture: Picture, others: Sequence[Picture]) -> Iterator[MotionField]:
    """The field of `picture` in each of `others`, which lie ever farther from it: each search starts from the one before."""
    vectors = np.zeros((picture.rows, picture.columns, 2), np.int16)
    free = np.zeros((2, 2 * LARGEST_MAGNITUDE + 1), np.int32)
    for other in others:
        predicted = new_picture(picture.rows, picture.columns).y
        errors = np.empty(vectors.shape[:2], np.int64)
        vectors = vectors.copy()
        _follow(
            picture.y,
            other.y,
            interpolate_half_pixels([other.y])[0],
            free,
            vectors,
            errors,
            predicted,
            np.zeros((4, 2), np.int64),
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
