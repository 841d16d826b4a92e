"""Macroblocks to pixels: prediction plus residue (RFC 6386 chapters 12, 14 and 18).

There is no room to work in but the picture itself. A plane of R x C macroblocks lies within BORDER pixels on each side:

    +-----------+-----------------------------------+-----------+
    |           |                                   |           |
    |       127 | 127  127  127  ...            127 | 127       |   `set_intra_border`: what the first row sees above it and
    +-----------+-----------------------------------+-----------+   to its right, and the first column to its left
    |       129 | done       done       done   done | last last |
    |       129 | done      >here<   not yet        |           |   `extend_above_right`: the last column sees the last pixel
    |       129 | not yet                           |           |   above it repeated, its lower subblocks too
    +-----------+-----------------------------------+-----------+

Each macroblock is predicted in place, from the pixels above and to its left, or from a reference picture, and its residue is
added in place. Only when all are done, and the loop filter has passed, is the border what vectors may point at
(`extend_borders`).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from codec.frame import B_PRED, BORDER, INTRA_FRAME, SPLITMV, Macroblocks, Picture
from codec.frame_header import FrameHeader
from codec.kernel import kernel, part_kernel
from codec.loop_filter import filter_levels, loop_filter_frame
from codec.predict_inter import predict_inter_macroblock
from codec.predict_intra import extend_above_right, predict_16x16, predict_chroma, predict_subblock
from codec.quantize import dequantize, segment_quantizers
from codec.state import FilterDeltas, Segmentation
from codec.tokens import has_y2
from codec.transform import (
    add_chroma_residue,
    add_residue,
    inverse_dc_add,
    inverse_dct_add,
    inverse_wht,
)


@kernel
def _predict(
    y_mode, uv_mode, vectors, partitioning, reference, references, version, picture, mb_row, mb_col
):
    if reference != INTRA_FRAME:
        split, of = y_mode == SPLITMV, references[reference - 1]
        predict_inter_macroblock(of, vectors, split, partitioning, version, picture, mb_row, mb_col)
        return
    predict_chroma(picture, mb_row, mb_col, uv_mode)
    if y_mode != B_PRED:
        y, x = BORDER + 16 * mb_row, BORDER + 16 * mb_col
        predict_16x16(picture.y, y, x, y_mode, picture.y, y, x)


@part_kernel
def predict_macroblock(macroblocks, references, version, picture, mb_row, mb_col):
    """Predict one macroblock of `picture`, but for the luma of B_PRED, which leans on its own residue."""
    _predict(
        macroblocks.y_mode[mb_row, mb_col],
        macroblocks.uv_mode[mb_row, mb_col],
        macroblocks.vectors[mb_row, mb_col],
        macroblocks.partitioning[mb_row, mb_col],
        macroblocks.reference[mb_row, mb_col],
        references,
        version,
        picture,
        mb_row,
        mb_col,
    )


@part_kernel
def _reconstruct_subblocks(coefficients, eobs, sub_modes, picture, mb_row, mb_col):
    """The luma of a B_PRED macroblock, subblock by subblock."""
    top, left = BORDER + 16 * mb_row, BORDER + 16 * mb_col
    extend_above_right(picture.y, mb_row, mb_col)
    for block in range(16):
        y, x = top + 4 * (block >> 2), left + 4 * (block & 3)
        right_y = top - 1 if block & 3 == 3 else y - 1
        predict_subblock(picture.y, y, x, sub_modes[block], right_y, picture.y, y, x)
        if eobs[block] > 1:
            inverse_dct_add(coefficients, block, picture.y, y, x)
        elif eobs[block] == 1:
            inverse_dc_add(np.int64(coefficients[block, 0]), picture.y, y, x)


@part_kernel
def reconstruct_row(
    macroblocks, levels, eobs, coded, factors, references, version, picture, mb_row, coefficients
):
    """Predict one row of macroblocks and add their residue; they are not yet loop-filtered.

    levels (C, 25, 16) int16, zero where there is no token, eobs (C, 25) and coded (C,) uint8 are the row's; factors
    (4, 6) int16 by segment. references are the Pictures LAST, GOLDEN and ALTREF. coefficients (25, 16) int16 is room to
    work in.
    """
    for mb_col in range(macroblocks.y_mode.shape[1]):
        y_mode = macroblocks.y_mode[mb_row, mb_col]
        with_y2 = has_y2(y_mode)
        if coded[mb_col]:
            segment = macroblocks.segment[mb_row, mb_col]
            dequantize(levels[mb_col], factors[segment], with_y2, coefficients)
            if with_y2:
                inverse_wht(coefficients)
        predict_macroblock(macroblocks, references, version, picture, mb_row, mb_col)
        ends = eobs[mb_col]
        if y_mode == B_PRED:
            sub_modes = macroblocks.sub_modes[mb_row, mb_col]
            _reconstruct_subblocks(coefficients, ends, sub_modes, picture, mb_row, mb_col)
        if coded[mb_col] and y_mode == B_PRED:
            add_chroma_residue(coefficients, ends, picture, mb_row, mb_col)
        elif coded[mb_col]:
            add_residue(coefficients, ends, picture, mb_row, mb_col)


# By a frame's header ------------------------------------------------------------------------------------------------


def frame_quantizers(header: FrameHeader, segmentation: Segmentation) -> NDArray[np.int16]:
    """(4, 6) int16: dequantization factors of each segment."""
    indices = header.quantizer
    values = segmentation.quantizer.tolist() if segmentation.enabled else None
    return segment_quantizers(indices.y_ac, indices[1:], values, segmentation.absolute)


def filter_picture(
    header: FrameHeader,
    segmentation: Segmentation,
    deltas: FilterDeltas,
    macroblocks: Macroblocks,
    picture: Picture,
) -> None:
    """Loop-filter a reconstructed picture in place, unless the header's level is 0; the border is not drawn yet."""
    if header.filter_level == 0:
        return
    levels = filter_levels(header.filter_level, segmentation, deltas)
    loop_filter_frame(
        picture, macroblocks, levels, header.sharpness, header.simple_filter, header.key_frame
    )
