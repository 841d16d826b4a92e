"""The intra modes of a macroblock that are chosen one part at a time: chroma, and the sixteen subblocks of B_PRED."""

from __future__ import annotations

import numpy as np

from codec import simd
from codec.encoding.forward_transform import forward_dct_block
from codec.encoding.motion_search import SATD_SHIFT
from codec.encoding.rate_distortion import DISTORTION_SHIFT
from codec.encoding.residual import Y_WITH_DC, Coding, code_block, code_chroma, mask_of
from codec.encoding.satd import satd4x4, satd8x8, sse4x4, sse8x8
from codec.encoding.screening import FAR, satd_weight
from codec.frame import BORDER, DC_PRED, TM_PRED
from codec.kernel import part_kernel
from codec.modes import sub_mode_contexts
from codec.predict_intra import extend_above_right, predict_8x8, predict_subblock
from codec.tokens import BLOCK_ABOVE, BLOCK_LEFT, CONTEXTS
from codec.transform import inverse_dct_add

ERROR_SHIFT = DISTORTION_SHIFT + 4
"""Squared pixel errors to costs."""

SUBBLOCK_FINALISTS = 3
"""Subblock modes that are costed fully, of the ten that are screened."""


@part_kernel
def choose_chroma_mode(frame, mb_row, mb_col, picture, room):
    """The chroma mode of least SATD and rate."""
    y, x = BORDER + 8 * mb_row, BORDER + 8 * mb_col
    weight = satd_weight(frame, mb_row, mb_col)
    best, chosen = FAR, np.int64(DC_PRED)
    for mode in range(DC_PRED, TM_PRED + 1):
        predict_8x8(picture.u, y, x, mode, room.trial.u, y, x)
        predict_8x8(picture.v, y, x, mode, room.trial.v, y, x)
        satd = np.int64(satd8x8(frame.source.u, y, x, room.trial.u, y, x))
        satd += np.int64(satd8x8(frame.source.v, y, x, room.trial.v, y, x))
        rate = np.int64(frame.rates.uv_mode[mode])
        cost = (satd << SATD_SHIFT) + rate * weight
        if cost < best:
            best, chosen = cost, mode
    return chosen


@part_kernel
def coding(frame, mb_row, mb_col, multiplier, room):
    """The macroblock as room.trial predicts it, coded into `room`."""
    return Coding(
        frame.coder,
        frame.source,
        room.trial,
        mb_row,
        mb_col,
        np.int64(frame.segments[mb_row, mb_col]),
        mask_of(frame.coder, mb_row, mb_col),
        multiplier,
        room.contexts,
        room.levels,
        room.eobs,
        room.buffers,
    )


@part_kernel
def trial_chroma(at):
    """Squared error of the predicted chroma, and the cost of its residue."""
    y, x = BORDER + 8 * at.mb_row, BORDER + 8 * at.mb_col
    source, trial = at.source, at.picture
    error = np.int64(sse8x8(source.u, y, x, trial.u, y, x))
    error += np.int64(sse8x8(source.v, y, x, trial.v, y, x))
    return error, code_chroma(at)


@part_kernel
def _choose_subblock_mode(frame, at, y, x, right_y, block, rates, picture, room):
    """Choose a subblock's mode, leave its dequantized coefficients in room.kept; gives mode, end and cost."""
    over, beside = BLOCK_ABOVE[block], BLOCK_LEFT[block]
    above, left = room.contexts.above[at.mb_col, over], room.contexts.left[beside]
    source, plane, trial = frame.source.y, picture.y, room.trial.y
    weight = satd_weight(frame, at.mb_row, at.mb_col)
    for mode in range(10):
        predict_subblock(plane, y, x, mode, right_y, trial, y, x)
        satd = np.int64(satd4x4(source, y, x, trial, y, x))
        room.costs[mode] = (satd << SATD_SHIFT) + np.int64(rates[mode]) * weight
    best, chosen, end = FAR, np.int64(0), np.int64(0)
    for _ in range(SUBBLOCK_FINALISTS):
        mode = np.int64(0)
        for i in range(1, 10):
            if room.costs[i] < room.costs[mode]:
                mode = i
        room.costs[mode] = FAR
        predict_subblock(plane, y, x, mode, right_y, trial, y, x)
        forward_dct_block(source, trial, y, x, room.buffers.coefficients, block)
        simd.store(simd.i16x16(0), room.levels, block, 0)
        room.contexts.above[at.mb_col, over] = above
        room.contexts.left[beside] = left
        cost = code_block(at, Y_WITH_DC, block, 0)
        cost += np.int64(sse4x4(source, y, x, trial, y, x)) << ERROR_SHIFT
        cost += np.int64(rates[mode]) * at.multiplier
        if cost < best:
            best, chosen, end = cost, mode, np.int64(room.eobs[block])
            simd.store(simd.load16(room.buffers.dequantized, block, 0), room.kept, 0, 0)
    room.contexts.above[at.mb_col, over] = room.contexts.left[beside] = 1 if end > 0 else 0
    return chosen, end, best


@part_kernel
def subblocks_cost(
    frame, macroblocks, mb_row, mb_col, contexts, picture, room, uv_mode, multiplier, rate, limit
):
    """Cost of B_PRED with the best mode of each subblock, left in room.sub_modes; gives up past `limit`.

    The subblocks are reconstructed in the picture, at the macroblock's place, since each leans on those before it.
    """
    for i in range(CONTEXTS):
        room.contexts.above[mb_col, i] = contexts.above[mb_col, i]
        room.contexts.left[i] = contexts.left[i]
    at = coding(frame, mb_row, mb_col, multiplier, room)
    cost = rate * multiplier
    top, left = BORDER + 16 * mb_row, BORDER + 16 * mb_col
    extend_above_right(picture.y, mb_row, mb_col)
    for block in range(16):
        y, x = top + 4 * (block >> 2), left + 4 * (block & 3)
        right_y = top - 1 if block & 3 == 3 else y - 1
        above_mode, left_mode = sub_mode_contexts(
            macroblocks, mb_row, mb_col, room.sub_modes, block
        )
        rates = frame.sub_mode_rates[above_mode, left_mode]
        mode, end, more = _choose_subblock_mode(
            frame, at, y, x, right_y, block, rates, picture, room
        )
        cost += more
        if cost >= limit:
            return FAR
        room.sub_modes[block] = mode
        predict_subblock(picture.y, y, x, mode, right_y, picture.y, y, x)
        if end > 0:
            inverse_dct_add(room.kept, 0, picture.y, y, x)
    for block in range(16, 24):
        simd.store(simd.i16x16(0), room.levels, block, 0)
    v, h = BORDER + 8 * mb_row, BORDER + 8 * mb_col
    predict_8x8(picture.u, v, h, uv_mode, room.trial.u, v, h)
    predict_8x8(picture.v, v, h, uv_mode, room.trial.v, v, h)
    error, residue = trial_chroma(at)
    return cost + (error << ERROR_SHIFT) + residue
