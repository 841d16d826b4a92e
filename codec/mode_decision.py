"""Which mode, reference and vectors each macroblock takes: candidates are screened by SATD, the best ones by true cost.

The cost of a candidate is its squared error and its rate together, as `rate_distortion` weighs them, with the levels that
the residual coder would choose. Macroblocks are decided, coded and reconstructed in raster order, since each leans on
its neighbours' pixels, vectors and token contexts.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from codec.frame import (
    B_PRED,
    BORDER,
    DC_PRED,
    INTRA_FRAME,
    NEARESTMV,
    NEARMV,
    NEWMV,
    SPLITMV,
    TM_PRED,
    ZEROMV,
    Macroblocks,
    Picture,
    new_picture,
)
from codec.intra_decision import choose_chroma_mode, subblocks_cost
from codec.kernel import inline_kernel, kernel
from codec.modes import IMPLIED_SUB_MODES
from codec.motion import find_near_vectors
from codec.motion_search import Target, measure_16x16, search_16x16, vector_rate
from codec.predict_inter import predict_inter_chroma, predict_inter_luma
from codec.predict_intra import predict_8x8, predict_16x16, predict_chroma, set_intra_border
from codec.rate_distortion import DISTORTION_SHIFT, ModeRates
from codec.residual import (
    ResidualBuffers,
    ResidualCoder,
    TokenContexts,
    _code_chroma,
    _code_luma,
    code_macroblock,
    new_buffers,
    new_contexts,
)
from codec.satd import satd16x16, sse8x8, sse16x16
from codec.split_search import search_split
from codec.state import References

ERROR_SHIFT = DISTORTION_SHIFT + 4
"""Squared pixel errors to costs."""

CANDIDATES = 24
"""Room for screened candidates: four vectors of each reference, four intra modes."""

_SATD_SHIFT = 12
_FAR = np.int64(1) << 60


class FrameSearch(NamedTuple):
    """What deciding a frame's macroblocks needs to know of the frame."""

    source: Picture
    references: References
    usable: NDArray[np.int64]  # (N,) references that differ from each other, LAST first; none on key frames
    planes: NDArray[np.uint8]  # (N, 4, H, W) their half-pixel planes
    coder: ResidualCoder
    rates: ModeRates
    sub_mode_rates: NDArray[np.int32]  # (10, 10, 10) by the modes above and to the left
    sign_bias: NDArray[np.uint8]  # (4,)
    satd_multiplier: int
    finalists: int  # candidates of a macroblock that are costed fully


class Room(NamedTuple):
    """Room to work in for one macroblock; contents mean nothing between macroblocks."""

    trial: Picture  # predictions under trial, at the macroblock's place
    contexts: TokenContexts
    buffers: ResidualBuffers
    levels: NDArray[np.int16]  # (25, 16)
    eobs: NDArray[np.uint8]  # (25,)
    costs: NDArray[np.int64]  # (CANDIDATES,) screening costs
    kinds: NDArray[np.int64]  # (CANDIDATES, 5) mode, reference, vector, rate
    starts: NDArray[np.int64]  # (16, 2) vectors to start a search from
    found: NDArray[np.int64]  # (2,)
    vectors: NDArray[np.int16]  # (16, 2) of the candidate under trial
    split_vectors: NDArray[np.int16]  # (4, 16, 2) by partitioning
    split_modes: NDArray[np.uint8]  # (4, 16)
    sub_modes: NDArray[np.uint8]  # (16,)
    kept: NDArray[np.int16]  # (2, 16) levels and dequantized coefficients of the best subblock mode


def new_room(rows: int, columns: int) -> Room:
    """Room for the macroblocks of a picture of this size."""
    return Room(
        new_picture(rows, columns),
        new_contexts(columns),
        new_buffers(),
        np.zeros((25, 16), np.int16),
        np.zeros(25, np.uint8),
        np.zeros(CANDIDATES, np.int64),
        np.zeros((CANDIDATES, 5), np.int64),
        np.zeros((16, 2), np.int64),
        np.zeros(2, np.int64),
        np.zeros((16, 2), np.int16),
        np.zeros((4, 16, 2), np.int16),
        np.zeros((4, 16), np.uint8),
        np.zeros(16, np.uint8),
        np.zeros((2, 16), np.int16),
    )


# Costs of whole candidates ---------------------------------------------------------------------------------------


@inline_kernel
def _copy_contexts(contexts, mb_col, room):  # type: ignore[no-untyped-def]
    room.contexts.above[mb_col, :] = contexts.above[mb_col]
    room.contexts.left[:] = contexts.left


@kernel
def _trial_cost(frame, mb_row, mb_col, contexts, room, with_y2, multiplier, rate, limit):  # type: ignore[no-untyped-def]
    """Cost of the prediction in room.trial with its residue or without; gives up, with a cost that is too high, past `limit`."""
    source, trial, rates = frame.source, room.trial, frame.rates
    y, x = BORDER + 16 * mb_row, BORDER + 16 * mb_col
    v, h = BORDER + 8 * mb_row, BORDER + 8 * mb_col
    error = sse16x16(source.y, y, x, trial.y, y, x)
    error += sse8x8(source.u, v, h, trial.u, v, h) + sse8x8(source.v, v, h, trial.v, v, h)
    cost = (np.int64(error) << ERROR_SHIFT) + rate * multiplier
    _copy_contexts(contexts, mb_col, room)
    room.levels[:] = 0
    residue = np.int64(frame.rates.skip[0]) * multiplier
    residue += _code_luma(
        frame.coder,
        source,
        mb_row,
        mb_col,
        with_y2,
        0,
        multiplier,
        room.contexts,
        room.levels,
        room.eobs,
        trial,
        room.buffers,
    )
    residue += _code_chroma(
        frame.coder,
        source,
        mb_row,
        mb_col,
        0,
        multiplier,
        room.contexts,
        room.levels,
        room.eobs,
        trial,
        room.buffers,
    )
    return cost + min(residue, np.int64(rates.skip[1]) * multiplier)


@kernel
def _predict_candidate(frame, mb_row, mb_col, kind, uv_mode, picture, room):  # type: ignore[no-untyped-def]
    """Put the prediction of a 16x16 candidate into room.trial."""
    y, x = BORDER + 16 * mb_row, BORDER + 16 * mb_col
    mode, reference = kind[0], kind[1]
    if reference == INTRA_FRAME:
        predict_16x16(picture.y, y, x, mode, room.trial.y, y, x)
        v, h = BORDER + 8 * mb_row, BORDER + 8 * mb_col
        predict_8x8(picture.u, v, h, uv_mode, room.trial.u, v, h)
        predict_8x8(picture.v, v, h, uv_mode, room.trial.v, v, h)
    else:
        room.vectors[:, 0] = kind[2]
        room.vectors[:, 1] = kind[3]
        _predict_inter(frame, mb_row, mb_col, reference, False, 0, room)


@kernel
def _predict_inter(frame, mb_row, mb_col, reference, split, partitioning, room):  # type: ignore[no-untyped-def]
    of = frame.references[reference - 1]
    predict_inter_luma(
        of.y, room.vectors, split, partitioning, 0, room.trial.y, mb_row, mb_col
    )
    predict_inter_chroma(of, room.vectors, split, 0, room.trial, mb_row, mb_col)


# Screening -------------------------------------------------------------------------------------------------------


@inline_kernel
def _add(room, count, cost, mode, reference, v_row, v_column, rate):  # type: ignore[no-untyped-def]
    room.costs[count] = cost
    room.kinds[count, 0] = mode
    room.kinds[count, 1] = reference
    room.kinds[count, 2] = v_row
    room.kinds[count, 3] = v_column
    room.kinds[count, 4] = rate
    return count + 1


@kernel
def _screen_intra(frame, mb_row, mb_col, picture, room, count):  # type: ignore[no-untyped-def]
    """Add the four intra modes of whole macroblocks; gives the number of candidates."""
    y, x = BORDER + 16 * mb_row, BORDER + 16 * mb_col
    for mode in range(DC_PRED, TM_PRED + 1):
        predict_16x16(picture.y, y, x, mode, room.trial.y, y, x)
        satd = np.int64(satd16x16(frame.source.y, y, x, room.trial.y, y, x))
        rate = np.int64(frame.rates.inter[0]) + np.int64(frame.rates.y_mode[mode])
        cost = (satd << _SATD_SHIFT) + rate * frame.satd_multiplier
        count = _add(room, count, cost, mode, INTRA_FRAME, 0, 0, rate)
    return count


class VectorModeRates(NamedTuple):
    """Rates of the vector modes of one macroblock, by its neighbours."""

    zero: int
    nearest: int
    near: int
    new: int
    split: int


@inline_kernel
def _vector_mode_rates(rates, near):  # type: ignore[no-untyped-def]
    table = rates.vector_mode
    more = np.int64(rates.inter[1])
    zero = more + np.int64(table[near.count_zero, 0, 0])
    more += np.int64(table[near.count_zero, 0, 1])
    nearest = more + np.int64(table[near.count_nearest, 1, 0])
    more += np.int64(table[near.count_nearest, 1, 1])
    closer = more + np.int64(table[near.count_near, 2, 0])
    more += np.int64(table[near.count_near, 2, 1])
    new = more + np.int64(table[near.count_split, 3, 0])
    return VectorModeRates(
        zero, nearest, closer, new, more + np.int64(table[near.count_split, 3, 1])
    )


@kernel
def _screen_reference(frame, macroblocks, mb_row, mb_col, index, near, modes, room, count):  # type: ignore[no-untyped-def]
    """Add a reference's vectors; gives the number of candidates. The last of them is NEWMV."""
    y, x = BORDER + 16 * mb_row, BORDER + 16 * mb_col
    source, planes = frame.source.y, frame.planes[index]
    reference = frame.usable[index]
    more = np.int64(frame.rates.reference[reference])
    weight = frame.satd_multiplier
    satd = np.int64(measure_16x16(source, planes, y, x, 0, 0))
    rate = more + modes.zero
    count = _add(room, count, (satd << _SATD_SHIFT) + rate * weight, ZEROMV, reference, 0, 0, rate)
    v_row, v_column = near.nearest_row, near.nearest_column
    if v_row != 0 or v_column != 0:
        satd = np.int64(measure_16x16(source, planes, y, x, v_row, v_column))
        rate = more + modes.nearest
        cost = (satd << _SATD_SHIFT) + rate * weight
        count = _add(room, count, cost, NEARESTMV, reference, v_row, v_column, rate)
    v_row, v_column = near.near_row, near.near_column
    if v_row != 0 or v_column != 0:
        satd = np.int64(measure_16x16(source, planes, y, x, v_row, v_column))
        rate = more + modes.near
        cost = (satd << _SATD_SHIFT) + rate * weight
        count = _add(room, count, cost, NEARMV, reference, v_row, v_column, rate)
    target = Target(
        source,
        planes,
        y,
        x,
        near.best_row,
        near.best_column,
        frame.rates.vector,
        weight,
    )
    starts = _collect_starts(macroblocks, mb_row, mb_col, near, room.starts)
    cost = search_16x16(target, room.starts, starts, 32 if index == 0 else 0, room.found)
    v_row, v_column = room.found[0], room.found[1]
    rate = more + modes.new
    cost += rate * weight
    rate += vector_rate(frame.rates.vector, v_row, v_column, near.best_row, near.best_column)
    return _add(room, count, cost, NEWMV, reference, v_row, v_column, rate)


@kernel
def _collect_starts(macroblocks, mb_row, mb_col, near, starts):  # type: ignore[no-untyped-def]
    """Vectors from which a search starts: predicted ones and the neighbours'; gives their number."""
    starts[0] = 0
    starts[1, 0] = near.best_row
    starts[1, 1] = near.best_column
    starts[2, 0] = near.nearest_row
    starts[2, 1] = near.nearest_column
    starts[3, 0] = near.near_row
    starts[3, 1] = near.near_column
    count = 4
    columns = macroblocks.y_mode.shape[1]
    for neighbour in range(3):
        row = mb_row - (1 if neighbour > 0 else 0)
        column = mb_col + (-1 if neighbour == 0 else neighbour - 1)
        if row < 0 or column < 0 or column >= columns:
            continue
        if macroblocks.reference[row, column] != INTRA_FRAME:
            starts[count, 0] = macroblocks.vectors[row, column, 15, 0]
            starts[count, 1] = macroblocks.vectors[row, column, 15, 1]
            count += 1
    return count


@inline_kernel
def _take_least(costs, count):  # type: ignore[no-untyped-def]
    """The candidate of least screening cost, which is struck off."""
    best = 0
    for i in range(1, count):
        if costs[i] < costs[best]:
            best = i
    cost = costs[best]
    costs[best] = _FAR
    return best, cost


# One macroblock --------------------------------------------------------------------------------------------------


@kernel
def _set_macroblock(macroblocks, mb_row, mb_col, kind, uv_mode):  # type: ignore[no-untyped-def]
    """Write a 16x16 candidate's modes and vectors."""
    macroblocks.y_mode[mb_row, mb_col] = kind[0]
    macroblocks.reference[mb_row, mb_col] = kind[1]
    macroblocks.uv_mode[mb_row, mb_col] = uv_mode if kind[1] == INTRA_FRAME else DC_PRED
    macroblocks.vectors[mb_row, mb_col, :, 0] = kind[2]
    macroblocks.vectors[mb_row, mb_col, :, 1] = kind[3]
    if kind[1] == INTRA_FRAME:
        macroblocks.sub_modes[mb_row, mb_col, :] = IMPLIED_SUB_MODES[kind[0]]


@kernel
def decide_macroblock(frame, macroblocks, mb_row, mb_col, contexts, picture, room):  # type: ignore[no-untyped-def]
    """Choose the modes of one macroblock and write them; gives the cost."""
    masking = np.int64(frame.coder.masking[mb_row, mb_col])
    multiplier = (frame.coder.multipliers[0, 0] * masking) >> 8
    near = find_near_vectors(macroblocks, mb_row, mb_col, 1, frame.sign_bias)
    modes = _vector_mode_rates(frame.rates, near)
    count = 0
    best_inter = _FAR
    split_index, split_row, split_column = 0, np.int64(0), np.int64(0)
    for index in range(len(frame.usable)):
        first = count
        count = _screen_reference(
            frame, macroblocks, mb_row, mb_col, index, near, modes, room, count
        )
        for i in range(first, count):
            if room.costs[i] < best_inter:
                best_inter = room.costs[i]
                split_index, split_row, split_column = (
                    index,
                    room.kinds[count - 1, 2],
                    room.kinds[count - 1, 3],
                )
    vectors_end = count
    count = _screen_intra(frame, mb_row, mb_col, picture, room, count)
    best_intra = _FAR
    for i in range(vectors_end, count):
        best_intra = min(best_intra, room.costs[i])
    uv_mode = choose_chroma_mode(frame, mb_row, mb_col, picture, room)
    uv_rate = np.int64(frame.rates.uv_mode[uv_mode])
    best, chosen = _FAR, 0
    for _ in range(min(frame.finalists, count)):
        i, screened = _take_least(room.costs, count)
        if screened > 2 * min(best_inter, best_intra):
            break
        kind = room.kinds[i]
        _predict_candidate(frame, mb_row, mb_col, kind, uv_mode, picture, room)
        rate = kind[4] + (uv_rate if kind[1] == INTRA_FRAME else 0)
        cost = _trial_cost(
            frame, mb_row, mb_col, contexts, room, True, multiplier, rate, best
        )
        if cost < best:
            best, chosen = cost, i
    partitioning = -1
    if len(frame.usable) > 0:
        best, partitioning = _try_split(
            frame,
            macroblocks,
            mb_row,
            mb_col,
            contexts,
            room,
            near,
            modes.split,
            split_index,
            split_row,
            split_column,
            best_inter,
            multiplier,
            best,
        )
    if 2 * best_intra < 3 * best_inter:
        rate = np.int64(frame.rates.inter[0]) + np.int64(frame.rates.y_mode[B_PRED]) + uv_rate
        rate += np.int64(frame.rates.skip[0])
        cost = subblocks_cost(
            frame, macroblocks, mb_row, mb_col, contexts, picture, room, uv_mode, multiplier, rate, best
        )
        if cost < best:
            macroblocks.y_mode[mb_row, mb_col] = B_PRED
            macroblocks.reference[mb_row, mb_col] = INTRA_FRAME
            macroblocks.uv_mode[mb_row, mb_col] = uv_mode
            macroblocks.vectors[mb_row, mb_col] = 0
            macroblocks.sub_modes[mb_row, mb_col] = room.sub_modes
            return cost
    if partitioning >= 0:
        macroblocks.y_mode[mb_row, mb_col] = SPLITMV
        macroblocks.reference[mb_row, mb_col] = frame.usable[split_index]
        macroblocks.uv_mode[mb_row, mb_col] = DC_PRED
        macroblocks.partitioning[mb_row, mb_col] = partitioning
        macroblocks.vectors[mb_row, mb_col] = room.split_vectors[partitioning]
        macroblocks.sub_modes[mb_row, mb_col] = room.split_modes[partitioning]
        return best
    _set_macroblock(macroblocks, mb_row, mb_col, room.kinds[chosen], uv_mode)
    return best


@kernel
def _try_split(  # type: ignore[no-untyped-def]
    frame,
    macroblocks,
    mb_row,
    mb_col,
    contexts,
    room,
    near,
    mode_rate,
    index,
    v_row,
    v_column,
    screened,
    multiplier,
    best,
):
    """Cost of the most promising split, if that is less than `best`, and its partitioning; else `best` and -1."""
    reference = frame.usable[index]
    rate = mode_rate + np.int64(frame.rates.reference[reference])
    partitioning, more = search_split(
        frame, macroblocks, mb_row, mb_col, room, index, near, v_row, v_column, rate, screened
    )
    if partitioning < 0:
        return best, -1
    room.vectors[:] = room.split_vectors[partitioning]
    _predict_inter(frame, mb_row, mb_col, reference, True, partitioning, room)
    cost = _trial_cost(
        frame, mb_row, mb_col, contexts, room, False, multiplier, rate + more, best
    )
    if cost < best:
        return cost, partitioning
    return best, -1


@kernel
def _predict_decided(frame, macroblocks, mb_row, mb_col, picture):  # type: ignore[no-untyped-def]
    """Put the prediction of a decided macroblock into the picture (B_PRED's luma comes with its residue)."""
    y_mode = macroblocks.y_mode[mb_row, mb_col]
    reference = np.int64(macroblocks.reference[mb_row, mb_col])
    if reference != INTRA_FRAME:
        vectors = macroblocks.vectors[mb_row, mb_col]
        split = y_mode == SPLITMV
        partitioning = macroblocks.partitioning[mb_row, mb_col]
        of = frame.references[reference - 1]
        predict_inter_luma(of.y, vectors, split, partitioning, 0, picture.y, mb_row, mb_col)
        predict_inter_chroma(of, vectors, split, 0, picture, mb_row, mb_col)
        return
    predict_chroma(picture, mb_row, mb_col, macroblocks.uv_mode[mb_row, mb_col])
    if y_mode != B_PRED:
        y, x = BORDER + 16 * mb_row, BORDER + 16 * mb_col
        predict_16x16(picture.y, y, x, y_mode, picture.y, y, x)


@kernel
def code_rows(frame, macroblocks, first_row, end_row, contexts, picture, room):  # type: ignore[no-untyped-def]
    """Decide, code and reconstruct rows first_row .. end_row - 1 of macroblocks; gives the sum of the costs."""
    total = np.int64(0)
    if first_row == 0:
        set_intra_border(picture)
    for mb_row in range(first_row, end_row):
        contexts.left[:] = 0
        for mb_col in range(macroblocks.y_mode.shape[1]):
            total += decide_macroblock(
                frame, macroblocks, mb_row, mb_col, contexts, picture, room
            )
            _predict_decided(frame, macroblocks, mb_row, mb_col, picture)
            code_macroblock(
                frame.coder,
                frame.source,
                mb_row,
                mb_col,
                macroblocks,
                contexts,
                picture,
                room.buffers,
            )
    return total
