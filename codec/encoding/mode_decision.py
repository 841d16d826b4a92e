"""Which mode, reference and vectors each macroblock takes: candidates are screened by SATD, the best ones by true cost.

The cost of a candidate is its squared error and its rate together, as `rate_distortion` weighs them, with the levels that
the residual coder would choose. Macroblocks are decided, coded and reconstructed in raster order, since each leans on
its neighbours' pixels, vectors and token contexts.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from codec import simd
from codec.checks import checked_whole
from codec.encoding.half_pixels import HalfPixels
from codec.encoding.intra_decision import (
    ERROR_SHIFT,
    choose_chroma_mode,
    coding,
    subblocks_cost,
    trial_chroma,
)
from codec.encoding.rate_distortion import ModeRates
from codec.encoding.residual import (
    ResidualBuffers,
    ResidualCoder,
    TokenContexts,
    code_luma,
    code_macroblock,
    finish_macroblock,
    new_buffers,
    new_contexts,
)
from codec.encoding.satd import sse16x16
from codec.encoding.screening import (
    COLUMN,
    FAR,
    MODE,
    RATE,
    REFERENCE,
    ROW,
    is_worth_searching,
    screen_intra,
    screen_new,
    screen_predicted,
    take_least,
    vector_mode_rates,
)
from codec.encoding.split_search import search_split
from codec.frame import (
    B_PRED,
    BORDER,
    DC_PRED,
    INTRA_FRAME,
    SPLITMV,
    Picture,
    new_picture,
)
from codec.kernel import inline_kernel, kernel, part_kernel
from codec.modes import IMPLIED_SUB_MODES
from codec.motion import find_near_vectors
from codec.predict_inter import predict_inter_chroma, predict_inter_luma
from codec.predict_intra import predict_8x8, predict_16x16, set_intra_border
from codec.reconstruct import predict_macroblock
from codec.state import References
from codec.tokens import CONTEXTS, Y2_BLOCK

CANDIDATES = 24
"""Room for screened candidates: five vectors of each reference, four intra modes."""

_EASY, _SCREEN, _FINAL, _SPLIT, _DONE = range(5)
"""Stages of a decision: the best predicted vector, which may be enough; screening; the best candidates; a split."""

_NONE, _A_SPLIT, _SUBBLOCKS = -1, -2, -3
"""In place of a candidate's number: there is none, the split, B_PRED."""

_IS_SKIPPED, _ERROR = range(2)
"""What a trial leaves in `room.found`: whether it is best without its residue, the squared error of its prediction."""


_MARGINS = (0, 16 * 256)  # a cost that stands for no candidate, FAR, times these fits in 63 bits
_BITS = (0, 1 << 20)
_LIMITS = {
    "finalists": (1, 256),
    "finalist_margin": _MARGINS,
    "subblock_margin": _MARGINS,
    "split_margin": _MARGINS,
    "reference_margin": _MARGINS,
    "leap": _BITS,
    "enough": _BITS,
}


class Limits(NamedTuple):
    """Where the search of a macroblock stops; margins are screening costs against the best, x 256."""

    finalists: int  # candidates that are costed fully
    finalist_margin: int  # candidates above are not
    subblock_margin: int  # B_PRED is tried where intra screening costs are below
    split_margin: int  # splits are tried where screening promises costs below
    reference_margin: int  # GOLDEN and ALTREF are searched where their predicted vectors are below
    leap: int  # bits x 256 that the SATD after a walk is worth, above which it leaps further
    enough: int  # bits x 256 that an error is worth, below which nothing better is looked for

    def check(self) -> None:
        """Raises ValueError for a number with which the search would not end, or would overflow."""
        for name, value in self._asdict().items():
            least, most = _LIMITS[name]
            checked_whole(f"{name} of limits", value, least, most)


class FrameSearch(NamedTuple):
    """What deciding a frame's macroblocks needs to know of the frame."""

    source: Picture
    references: References
    # (N,) references that differ from each other, LAST first; none on key frames
    usable: NDArray[np.int64]
    planes: tuple[HalfPixels, ...]  # LAST's, GOLDEN's and ALTREF's, those that are usable
    hints: NDArray[np.int16]  # (N, R, C, 2) vectors to start searching from, quarter pixels
    coder: ResidualCoder
    rates: ModeRates
    sub_mode_rates: NDArray[np.int32]  # (14, 14, 10) by the modes above and to the left
    sign_bias: NDArray[np.uint8]  # (4,)
    satd_multipliers: NDArray[np.int64]  # (4,) by segment
    segments: NDArray[np.uint8]  # (R, C)
    limits: Limits


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
    kept: NDArray[np.int16]  # (1, 16) dequantized coefficients of the best subblock mode
    residue: NDArray[np.int16]  # (25, 16) dequantized coefficients of the best trial


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
        np.zeros((1, 16), np.int16),
        np.zeros((25, 16), np.int16),
    )


# Costs of whole candidates ---------------------------------------------------------------------------------------


@part_kernel
def _trial_cost(frame, mb_row, mb_col, contexts, room, with_y2, multiplier, rate):
    """Cost of the prediction in room.trial, with its residue or without, whichever is less; see `_IS_SKIPPED`."""
    source, trial = frame.source, room.trial
    y, x = BORDER + 16 * mb_row, BORDER + 16 * mb_col
    error = np.int64(sse16x16(source.y, y, x, trial.y, y, x))
    for i in range(CONTEXTS):
        room.contexts.above[mb_col, i] = contexts.above[mb_col, i]
        room.contexts.left[i] = contexts.left[i]
    for block in range(25):
        simd.store(simd.i16x16(0), room.levels, block, 0)
    room.eobs[Y2_BLOCK] = 0
    residue = np.int64(frame.rates.skip[0]) * multiplier
    at = coding(frame, mb_row, mb_col, multiplier, room)
    residue += code_luma(at, with_y2)
    chroma_error, chroma_residue = trial_chroma(at)
    error += chroma_error
    residue += chroma_residue
    skipped = np.int64(frame.rates.skip[1]) * multiplier
    room.found[_IS_SKIPPED] = 1 if skipped <= residue else 0
    room.found[_ERROR] = error
    return (error << ERROR_SHIFT) + rate * multiplier + min(residue, skipped)


@part_kernel
def _predict_trial(frame, mb_row, mb_col, mode, reference, partitioning, uv_mode, picture, room):
    """Put a candidate's prediction into room.trial; vectors are those of room.vectors."""
    trial = room.trial
    if reference == INTRA_FRAME:
        y, x = BORDER + 16 * mb_row, BORDER + 16 * mb_col
        predict_16x16(picture.y, y, x, mode, trial.y, y, x)
        v, h = BORDER + 8 * mb_row, BORDER + 8 * mb_col
        predict_8x8(picture.u, v, h, uv_mode, trial.u, v, h)
        predict_8x8(picture.v, v, h, uv_mode, trial.v, v, h)
    else:
        of = frame.references[reference - 1]
        split = mode == SPLITMV
        predict_inter_luma(of.y, room.vectors, split, partitioning, 0, trial.y, mb_row, mb_col)
        predict_inter_chroma(of, room.vectors, split, 0, trial, mb_row, mb_col)


@part_kernel
def _keep_trial(macroblocks, mb_row, mb_col, picture, room):
    """Put a trial's prediction and, where it has one, its residue where the coded macroblock's belong: it is the best so far."""
    trial = room.trial
    y, x = BORDER + 16 * mb_row, BORDER + 16 * mb_col
    for row in range(y, y + 16):
        simd.store(simd.load16(trial.y, row, x), picture.y, row, x)
    y, x = BORDER + 8 * mb_row, BORDER + 8 * mb_col
    for row in range(y, y + 8):
        simd.store(simd.load8(trial.u, row, x), picture.u, row, x)
        simd.store(simd.load8(trial.v, row, x), picture.v, row, x)
    macroblocks.skip[mb_row, mb_col] = room.found[_IS_SKIPPED]
    if room.found[_IS_SKIPPED]:
        return
    levels = macroblocks.coefficients[mb_row, mb_col]
    eobs = macroblocks.eobs[mb_row, mb_col]
    for block in range(25):
        simd.store(simd.load16(room.levels, block, 0), levels, block, 0)
        simd.store(simd.load16(room.buffers.dequantized, block, 0), room.residue, block, 0)
        eobs[block] = room.eobs[block]


# One macroblock --------------------------------------------------------------------------------------------------


@part_kernel
def _set_macroblock(macroblocks, mb_row, mb_col, mode, reference, uv_mode, partitioning, room):
    """Write a macroblock's modes, with the vectors of room.vectors and the subblock modes of room.sub_modes."""
    macroblocks.y_mode[mb_row, mb_col] = mode
    macroblocks.reference[mb_row, mb_col] = reference
    macroblocks.uv_mode[mb_row, mb_col] = uv_mode
    macroblocks.partitioning[mb_row, mb_col] = partitioning
    for block in range(16):
        macroblocks.vectors[mb_row, mb_col, block, 0] = room.vectors[block, 0]
        macroblocks.vectors[mb_row, mb_col, block, 1] = room.vectors[block, 1]
        macroblocks.sub_modes[mb_row, mb_col, block] = room.sub_modes[block]


@part_kernel
def _take_candidate(room, i):
    """Put a screened candidate's vector into room.vectors."""
    for block in range(16):
        room.vectors[block, 0] = room.kinds[i, ROW]
        room.vectors[block, 1] = room.kinds[i, COLUMN]


@part_kernel
def _take_split(room, partitioning):
    for block in range(16):
        room.vectors[block, 0] = room.split_vectors[partitioning, block, 0]
        room.vectors[block, 1] = room.split_vectors[partitioning, block, 1]


@inline_kernel
def _is_tried(room, candidate, easy, count):
    """Whether a vector was tried already, in the same reference, under a mode that costs no more."""
    kinds, found = room.kinds, False
    for i in range(count):
        if i != candidate and (i == easy or room.costs[i] >= FAR):
            same = (kinds[i, ROW] == kinds[candidate, ROW]) & (
                kinds[i, COLUMN] == kinds[candidate, COLUMN]
            )
            same = same & (kinds[i, REFERENCE] == kinds[candidate, REFERENCE])
            found = found | (same & (kinds[i, RATE] <= kinds[candidate, RATE]))
    return found and kinds[candidate, REFERENCE] != INTRA_FRAME


class _Screened(NamedTuple):
    """What screening has found; costs are those of screening."""

    candidates: int  # how many
    best_inter: int
    best_intra: int
    new: int  # the best candidate that a search has found, or _NONE
    uv_mode: int  # of intra modes


@part_kernel
def _screen_predicted(frame, mb_row, mb_col, near, modes, room):
    """Screen the predicted vectors of all references; gives the number of candidates, and which is best at what cost."""
    count = np.int64(0)
    for index in range(len(frame.usable)):
        count = screen_predicted(frame, mb_row, mb_col, index, near, modes, room, count)
    best, cost = take_least(room.costs, count)
    room.costs[best] = cost  # it stays among the others
    return count, best, cost


@part_kernel
def _screen_others(
    frame, macroblocks, mb_row, mb_col, near, modes, picture, room, predicted, best_inter
):
    """Screen searched vectors and intra modes, after `predicted` candidates of which the best costs `best_inter`."""
    count, new = predicted, np.int64(_NONE)
    for index in range(len(frame.usable)):
        if is_worth_searching(frame, index, best_inter, predicted, room):
            count = screen_new(frame, macroblocks, mb_row, mb_col, index, near, modes, room, count)
            found = count - 1
            best_inter = min(best_inter, room.costs[found])
            if new == _NONE or room.costs[found] < room.costs[new]:
                new = found
    first_intra, best_intra = count, FAR
    count = screen_intra(frame, mb_row, mb_col, picture, room, count)
    for i in range(first_intra, count):
        best_intra = min(best_intra, room.costs[i])
    uv_mode = np.int64(DC_PRED)
    if _may_be_intra(frame.limits, best_inter, best_intra):
        uv_mode = choose_chroma_mode(frame, mb_row, mb_col, picture, room)
    return _Screened(count, best_inter, best_intra, new, uv_mode)


@inline_kernel
def _may_be_intra(limits, best_inter, best_intra):
    """Whether screening leaves an intra mode or B_PRED to be tried."""
    least = min(best_inter, best_intra)
    as_whole = best_intra <= (least * limits.finalist_margin) >> 8
    return as_whole or _may_be_subblocks(limits, best_inter, best_intra)


@inline_kernel
def _may_be_subblocks(limits, best_inter, best_intra):
    return (best_intra << 8) < best_inter * limits.subblock_margin


@part_kernel
def _find_split(frame, macroblocks, mb_row, mb_col, near, modes, room, screened):
    """The best split in the best searched vector's reference: its partitioning, negative if none will do, and its rate."""
    reference = room.kinds[screened.new, REFERENCE]
    row, column = room.kinds[screened.new, ROW], room.kinds[screened.new, COLUMN]
    rate = modes.split + np.int64(frame.rates.reference[reference])
    limit = (screened.best_inter * frame.limits.split_margin) >> 8
    partitioning, more = search_split(
        frame,
        macroblocks,
        mb_row,
        mb_col,
        room,
        frame.planes[reference - 1],
        near,
        row,
        column,
        rate,
        limit,
    )
    return partitioning, rate + more


@part_kernel
def decide_macroblock(frame, macroblocks, mb_row, mb_col, contexts, picture, room):
    """Choose the modes of one macroblock and write them; gives the cost, and whether all is kept of the trial that won.

    All stages share one loop because each call of a trial is a copy of it in the compiled kernel, its prediction and
    residual coding included: a loop for each stage would be clearer here and take several times as long to compile.
    """
    multiplier = (
        frame.coder.multipliers[frame.segments[mb_row, mb_col], 0]
        * np.int64(frame.coder.masking[mb_row, mb_col])
    ) >> 8
    near = find_near_vectors(macroblocks, mb_row, mb_col, 1, frame.sign_bias)
    modes = vector_mode_rates(frame.rates, near)
    limits = frame.limits
    predicted, easy, best_inter = np.int64(0), np.int64(_NONE), FAR
    screened = _Screened(np.int64(0), FAR, FAR, np.int64(_NONE), np.int64(DC_PRED))
    uv_rate, tried = np.int64(0), np.int64(0)
    best, chosen, partitioning = FAR, np.int64(0), np.int64(0)
    stage = _EASY if len(frame.usable) > 0 else _SCREEN
    while stage < _DONE:
        candidate = np.int64(_A_SPLIT)
        if stage == _EASY:
            predicted, easy, best_inter = _screen_predicted(
                frame, mb_row, mb_col, near, modes, room
            )
            candidate = easy
        elif stage == _SCREEN:
            screened = _screen_others(
                frame,
                macroblocks,
                mb_row,
                mb_col,
                near,
                modes,
                picture,
                room,
                predicted,
                best_inter,
            )
            uv_rate = np.int64(frame.rates.uv_mode[screened.uv_mode])
            stage = _FINAL
            continue
        elif stage == _FINAL:
            least = min(screened.best_inter, screened.best_intra)
            candidate, cost = take_least(room.costs, screened.candidates)
            tried += 1
            if tried > limits.finalists or cost > (least * limits.finalist_margin) >> 8:
                stage = _SPLIT
                continue
            if candidate == easy or _is_tried(room, candidate, easy, screened.candidates):
                continue
        if stage < _SPLIT:
            mode, reference = room.kinds[candidate, MODE], room.kinds[candidate, REFERENCE]
            rate = room.kinds[candidate, RATE]
            _take_candidate(room, candidate)
            if reference == INTRA_FRAME:
                rate += uv_rate
        else:
            stage = _DONE
            if screened.new == _NONE:
                break
            mode, reference = np.int64(SPLITMV), room.kinds[screened.new, REFERENCE]
            partitioning, rate = _find_split(
                frame, macroblocks, mb_row, mb_col, near, modes, room, screened
            )
            if partitioning < 0:
                break
            _take_split(room, partitioning)
        _predict_trial(
            frame, mb_row, mb_col, mode, reference, partitioning, screened.uv_mode, picture, room
        )
        cost = _trial_cost(frame, mb_row, mb_col, contexts, room, mode != SPLITMV, multiplier, rate)
        if cost < best:
            best, chosen = cost, candidate
            _keep_trial(macroblocks, mb_row, mb_col, picture, room)
            error = room.found[_ERROR] << ERROR_SHIFT
            if room.found[_IS_SKIPPED] and error < limits.enough * multiplier:
                break
        if stage == _EASY:
            stage = _SCREEN
    is_kept = True
    best_intra = screened.best_intra
    if best_intra < FAR and _may_be_subblocks(limits, screened.best_inter, best_intra):
        is_kept = False  # subblocks are tried in the picture
        rates, uv_mode = frame.rates, screened.uv_mode
        rate = np.int64(rates.inter[0]) + np.int64(rates.y_mode[B_PRED]) + np.int64(rates.skip[0])
        rate += uv_rate
        cost = subblocks_cost(
            frame, macroblocks, mb_row, mb_col, contexts, picture, room, uv_mode, multiplier, rate, best
        )  # fmt: skip
        if cost < best:
            best, chosen = cost, np.int64(_SUBBLOCKS)
    _write_choice(macroblocks, mb_row, mb_col, chosen, screened, partitioning, room)
    if macroblocks.reference[mb_row, mb_col] == INTRA_FRAME:
        weights = frame.coder.multipliers[frame.segments[mb_row, mb_col]]
        is_kept = is_kept and weights[0] == weights[1]  # else it is coded under other rates
    return best, is_kept


@part_kernel
def _write_choice(macroblocks, mb_row, mb_col, chosen, screened, partitioning, room):
    """Write what was chosen: a screened candidate, the split or B_PRED."""
    mode, reference, uv_mode = np.int64(B_PRED), np.int64(INTRA_FRAME), screened.uv_mode
    if chosen == _A_SPLIT:
        mode, reference = np.int64(SPLITMV), room.kinds[screened.new, REFERENCE]
        _take_split(room, partitioning)
        for block in range(16):
            room.sub_modes[block] = room.split_modes[partitioning, block]
    elif chosen == _SUBBLOCKS:
        for block in range(16):
            room.vectors[block, 0] = room.vectors[block, 1] = 0
    else:
        mode, reference = room.kinds[chosen, MODE], room.kinds[chosen, REFERENCE]
        _take_candidate(room, chosen)
        if reference == INTRA_FRAME:
            for block in range(16):
                room.sub_modes[block] = IMPLIED_SUB_MODES[mode]
    if reference != INTRA_FRAME:
        uv_mode = np.int64(DC_PRED)
    _set_macroblock(
        macroblocks, mb_row, mb_col, mode, reference, uv_mode, max(partitioning, np.int64(0)), room
    )


@kernel
def code_rows(frame, macroblocks, first_row, end_row, contexts, picture, room):
    """Decide, code and reconstruct rows first_row .. end_row - 1 of macroblocks; gives the sum of the costs."""
    total = np.int64(0)
    if first_row == 0:
        set_intra_border(picture)
    for mb_row in range(first_row, end_row):
        contexts.left[:] = 0
        for mb_col in range(macroblocks.y_mode.shape[1]):
            cost, is_kept = decide_macroblock(
                frame, macroblocks, mb_row, mb_col, contexts, picture, room
            )
            total += cost
            if is_kept:
                finish_macroblock(macroblocks, mb_row, mb_col, contexts, picture, room.residue)
                continue
            predict_macroblock(macroblocks, frame.references, 0, picture, mb_row, mb_col)
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
