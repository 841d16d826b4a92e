"""A picture averaged with its neighbours along their motion, for frames that many others predict from: noise costs bits
and helps none of them.

The filter is that of libvpx's hidden frames (its --arnr options): neighbours are predicted macroblock by macroblock, weigh by
how well that went, and pixel by pixel by how near they come.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from codec.checks import checked_whole
from codec.encoding.motion_field import follow_motion
from codec.frame import BORDER, Image, Picture, new_picture, picture_from_image
from codec.kernel import kernel
from codec.predict_inter import predict_inter_chroma

NEAR, FAR = 10_000, 20_000
"""Squared errors of a macroblock's luma, below which a neighbour weighs 2 and 1; above it is left out."""

OWN_WEIGHT = 32
"""What the picture itself weighs; a neighbour weighs at most as much."""

STRONGEST = 6


def filter_along_motion(images: Sequence[Image], at: int, strength: int = 5) -> Image:
    """images[at] averaged with the others, its neighbours in order of time.

    strength 0..6: how far pixels may be apart. Raises ValueError for another, for an index outside, for pictures of different
    sizes and for what is no picture.
    """
    checked_whole("the strength of a temporal filter", strength, 0, STRONGEST)
    at = checked_whole("the place of a picture among its neighbours", at, 0, len(images) - 1)
    centre = picture_from_image(images[at])
    sums = tuple(plane.astype(np.int32) * OWN_WEIGHT for plane in centre)
    weights = tuple(np.full(plane.shape, OWN_WEIGHT, np.int32) for plane in centre)
    trial = new_picture(centre.rows, centre.columns)
    for side in (images[:at][::-1], images[at + 1 :]):
        others = [picture_from_image(image) for image in side]
        for other, field in zip(others, follow_motion(centre, others), strict=True):
            trial = trial._replace(y=field.predicted)
            room = np.zeros((16, 2), np.int16)
            _add_neighbour(centre, other, *field[:2], strength, trial, sums, weights, room)
    means = ((s + w // 2) // w for s, w in zip(sums, weights, strict=True))
    filtered = Picture(*(mean.astype(np.uint8) for mean in means))
    return filtered.crop(images[at].width, images[at].height)


@kernel
def _add_neighbour(centre, other, vectors, errors, strength, trial, sums, weights, room):
    """Add a neighbour, whose predicted luma stands in `trial`, to sums and weights: three padded planes each, int32."""
    rows, columns = errors.shape
    for mb_row in range(rows):
        for mb_col in range(columns):
            weight = 2 if errors[mb_row, mb_col] < NEAR else 1
            if errors[mb_row, mb_col] >= FAR:
                continue
            for block in range(16):
                room[block, 0] = vectors[mb_row, mb_col, 0]
                room[block, 1] = vectors[mb_row, mb_col, 1]
            predict_inter_chroma(other, room, False, 0, trial, mb_row, mb_col)
            y, x = BORDER + 16 * mb_row, BORDER + 16 * mb_col
            _add_block(centre.y, trial.y, y, x, 16, weight, strength, sums[0], weights[0])
            y, x = BORDER + 8 * mb_row, BORDER + 8 * mb_col
            _add_block(centre.u, trial.u, y, x, 8, weight, strength, sums[1], weights[1])
            _add_block(centre.v, trial.v, y, x, 8, weight, strength, sums[2], weights[2])


@kernel
def _add_block(plane, other, y, x, size, weight, strength, sums, weights):
    rounding = (1 << strength) >> 1
    for row in range(y, y + size):
        for column in range(x, x + size):
            pixel = np.int32(other[row, column])
            difference = np.int32(plane[row, column]) - pixel
            distance = min((3 * difference * difference + rounding) >> strength, 16)
            factor = np.int32((16 - distance) * weight)
            weights[row, column] += factor
            sums[row, column] += factor * pixel
