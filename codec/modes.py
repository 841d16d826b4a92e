"""Per-macroblock modes (RFC 6386 chapters 8, 10, 11 and 16): segment, skip, prediction modes, references, vectors.

The probabilities that frames can change lie in one array, so that reading, writing and counting share their indices.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from codec.bool_coder import BoolWriter, load_window, read_bool, read_tree, store_window
from codec.frame import (
    ALTREF_FRAME,
    B_DC_PRED,
    B_HE_PRED,
    B_PRED,
    B_TM_PRED,
    B_VE_PRED,
    DC_PRED,
    GOLDEN_FRAME,
    INTRA_FRAME,
    LAST_FRAME,
    NEARESTMV,
    NEARMV,
    NEWMV,
    SPLITMV,
    ZEROMV,
    Macroblocks,
)
from codec.frame_header import FrameHeader
from codec.kernel import kernel, part_kernel
from codec.motion import (
    find_near_vectors,
    read_split,
    read_vector,
    record_split,
    record_vector,
)
from codec.records import (
    count_records,
    record,
    record_fixed,
    record_fixed_tree,
    record_tree,
    write_records,
)
from codec.state import ProbabilityTables
from codec.tables import (
    B_MODE_PROBS,
    B_MODE_TREE,
    KF_BMODE_PROBS,
    KF_UV_MODE_PROBS,
    KF_Y_MODE_TREE,
    KF_YMODE_PROBS,
    MODE_CONTEXTS,
    SEGMENT_TREE,
    UV_MODE_TREE,
    Y_MODE_TREE,
)

# Places in the array of mode probabilities
Y_MODE, UV_MODE, VECTORS, SKIP, INTRA, LAST, GOLDEN, SEGMENT = 0, 4, 7, 45, 46, 47, 48, 49
MODE_PROBABILITIES = 52


IMPLIED_SUB_MODES = np.array([B_DC_PRED, B_VE_PRED, B_HE_PRED, B_TM_PRED], np.uint8)
"""What a macroblock's luma mode DC_PRED .. TM_PRED means as context for subblock modes (section 11.3)."""


def mode_probabilities(header: FrameHeader, tables: ProbabilityTables) -> NDArray[np.uint8]:
    """(MODE_PROBABILITIES,) uint8 in force for a frame."""
    probabilities = np.full(MODE_PROBABILITIES, 255, np.uint8)
    probabilities[Y_MODE:UV_MODE] = tables.y_mode
    probabilities[UV_MODE:VECTORS] = tables.uv_mode
    probabilities[VECTORS:SKIP] = tables.vectors.reshape(-1)
    singles = (header.prob_skip_false, header.prob_intra, header.prob_last, header.prob_golden)
    probabilities[SKIP:SEGMENT] = singles
    if header.segmentation.tree_probabilities is not None:
        probabilities[SEGMENT:] = header.segmentation.tree_probabilities
    return probabilities


# Reading -----------------------------------------------------------------------------------------------------------


@part_kernel
def sub_mode_contexts(macroblocks, row, column, sub_modes, block):
    """Modes of the subblocks above and to the left on key frames, B_DC_PRED outside (section 11.3).

    sub_modes (16,) are those of the macroblock itself, so far.
    """
    above = left = np.int64(B_DC_PRED)
    if block >> 2:
        above = np.int64(sub_modes[block - 4])
    elif row > 0:
        above = np.int64(macroblocks.sub_modes[row - 1, column, block + 12])
    if block & 3:
        left = np.int64(sub_modes[block - 1])
    elif column > 0:
        left = np.int64(macroblocks.sub_modes[row, column - 1, block + 3])
    return above, left


@part_kernel
def _read_sub_modes(data, window, key_frame, macroblocks, row, column):
    """The 16 subblock modes of a B_PRED macroblock: with contexts on key frames (section 11.3), else without."""
    sub_modes = macroblocks.sub_modes[row, column]
    for block in range(16):
        probabilities = B_MODE_PROBS
        if key_frame:
            above, left = sub_mode_contexts(macroblocks, row, column, sub_modes, block)
            probabilities = KF_BMODE_PROBS[above, left]
        window, mode = read_tree(data, window, B_MODE_TREE, probabilities, 0)
        sub_modes[block] = mode
    return window


@part_kernel
def _fill_vectors(macroblocks, row, column, v_row, v_column):
    for block in range(16):
        macroblocks.vectors[row, column, block, 0] = v_row
        macroblocks.vectors[row, column, block, 1] = v_column


@part_kernel
def _read_intra(data, window, key_frame, probabilities, macroblocks, row, column):
    """Modes of an intra macroblock (sections 11.2 to 11.4, 16.1 and 16.2)."""
    if key_frame:
        window, y_mode = read_tree(data, window, KF_Y_MODE_TREE, KF_YMODE_PROBS, 0)
    else:
        window, y_mode = read_tree(data, window, Y_MODE_TREE, probabilities, Y_MODE)
    if y_mode == B_PRED:
        window = _read_sub_modes(data, window, key_frame, macroblocks, row, column)
    elif key_frame:
        macroblocks.sub_modes[row, column, :] = IMPLIED_SUB_MODES[y_mode]
    if key_frame:
        window, uv_mode = read_tree(data, window, UV_MODE_TREE, KF_UV_MODE_PROBS, 0)
    else:
        window, uv_mode = read_tree(data, window, UV_MODE_TREE, probabilities, UV_MODE)
    macroblocks.reference[row, column] = INTRA_FRAME
    macroblocks.y_mode[row, column] = y_mode
    macroblocks.uv_mode[row, column] = uv_mode
    _fill_vectors(macroblocks, row, column, 0, 0)
    return window


@part_kernel
def _read_inter(data, window, probabilities, sign_bias, macroblocks, row, column):
    """Reference, mode and vectors of an inter macroblock (section 16.3)."""
    reference = LAST_FRAME
    window, bit = read_bool(data, window, probabilities[LAST])
    if bit:
        window, bit = read_bool(data, window, probabilities[GOLDEN])
        reference = ALTREF_FRAME if bit else GOLDEN_FRAME
    macroblocks.reference[row, column] = reference
    macroblocks.uv_mode[row, column] = DC_PRED
    near = find_near_vectors(macroblocks, row, column, reference, sign_bias)
    mode, v_row, v_column = ZEROMV, np.int64(0), np.int64(0)
    window, bit = read_bool(data, window, MODE_CONTEXTS[near.count_zero, 0])
    if bit:
        mode, v_row, v_column = NEARESTMV, near.nearest_row, near.nearest_column
        window, bit = read_bool(data, window, MODE_CONTEXTS[near.count_nearest, 1])
        if bit:
            mode, v_row, v_column = NEARMV, near.near_row, near.near_column
            window, bit = read_bool(data, window, MODE_CONTEXTS[near.count_near, 2])
            if bit:
                window, bit = read_bool(data, window, MODE_CONTEXTS[near.count_split, 3])
                mode = SPLITMV if bit else NEWMV
    macroblocks.y_mode[row, column] = mode
    if mode == SPLITMV:
        return read_split(
            data,
            window,
            probabilities,
            VECTORS,
            macroblocks,
            row,
            column,
            near.best_row,
            near.best_column,
        )
    if mode == NEWMV:
        window, v_row, v_column = read_vector(
            data, window, probabilities, VECTORS, near.best_row, near.best_column
        )
    _fill_vectors(macroblocks, row, column, v_row, v_column)
    return window


@kernel
def read_modes(
    data, window, probabilities, key_frame, update_map, skip_enabled, sign_bias, macroblocks
):
    """Read what a frame says of each macroblock before its tokens.

    window (5,) int64 is read and updated; probabilities as `mode_probabilities` gives them; sign_bias (4,) uint8.
    macroblocks.segment holds the map so far, and is changed only if `update_map`.
    """
    place = load_window(window)
    rows, columns = macroblocks.y_mode.shape
    for row in range(rows):
        for column in range(columns):
            if update_map:
                place, segment = read_tree(data, place, SEGMENT_TREE, probabilities, SEGMENT)
                macroblocks.segment[row, column] = segment
            skip = 0
            if skip_enabled:
                place, skip = read_bool(data, place, probabilities[SKIP])
            macroblocks.skip[row, column] = skip
            inter = 0
            if not key_frame:
                place, inter = read_bool(data, place, probabilities[INTRA])
            if inter:
                place = _read_inter(data, place, probabilities, sign_bias, macroblocks, row, column)
            else:
                place = _read_intra(data, place, key_frame, probabilities, macroblocks, row, column)
    store_window(place, window)


# Writing and counting ----------------------------------------------------------------------------------------------

RECORDS_OF_A_MACROBLOCK = 640
"""Most booleans that a macroblock's modes can take: a split into 16 new vectors, 2 x 15 and 3 each, and 20 around it."""


@part_kernel
def _record_sub_modes(records, count, key_frame, macroblocks, row, column):
    sub_modes = macroblocks.sub_modes[row, column]
    for block in range(16):
        probabilities = B_MODE_PROBS
        if key_frame:
            above, left = sub_mode_contexts(macroblocks, row, column, sub_modes, block)
            probabilities = KF_BMODE_PROBS[above, left]
        mode = np.int64(sub_modes[block])
        count = record_fixed_tree(records, count, B_MODE_TREE, probabilities, mode)
    return count


@part_kernel
def _record_intra(records, count, key_frame, macroblocks, row, column):
    y_mode = np.int64(macroblocks.y_mode[row, column])
    uv_mode = np.int64(macroblocks.uv_mode[row, column])
    if key_frame:
        count = record_fixed_tree(records, count, KF_Y_MODE_TREE, KF_YMODE_PROBS, y_mode)
    else:
        count = record_tree(records, count, Y_MODE_TREE, Y_MODE, y_mode)
    if y_mode == B_PRED:
        count = _record_sub_modes(records, count, key_frame, macroblocks, row, column)
    if key_frame:
        return record_fixed_tree(records, count, UV_MODE_TREE, KF_UV_MODE_PROBS, uv_mode)
    return record_tree(records, count, UV_MODE_TREE, UV_MODE, uv_mode)


@part_kernel
def _record_inter(records, count, sign_bias, macroblocks, row, column):
    reference = np.int64(macroblocks.reference[row, column])
    count = record(records, count, LAST, 1 if reference != LAST_FRAME else 0)
    if reference != LAST_FRAME:
        count = record(records, count, GOLDEN, 1 if reference == ALTREF_FRAME else 0)
    near = find_near_vectors(macroblocks, row, column, reference, sign_bias)
    mode = macroblocks.y_mode[row, column]
    count = record_fixed(
        records, count, MODE_CONTEXTS[near.count_zero, 0], 1 if mode != ZEROMV else 0
    )
    if mode == ZEROMV:
        return count
    bit = 1 if mode != NEARESTMV else 0
    count = record_fixed(records, count, MODE_CONTEXTS[near.count_nearest, 1], bit)
    if mode == NEARESTMV:
        return count
    count = record_fixed(
        records, count, MODE_CONTEXTS[near.count_near, 2], 1 if mode != NEARMV else 0
    )
    if mode == NEARMV:
        return count
    bit = 1 if mode == SPLITMV else 0
    count = record_fixed(records, count, MODE_CONTEXTS[near.count_split, 3], bit)
    best_row, best_column = near.best_row, near.best_column
    if mode == SPLITMV:
        return record_split(
            records, count, VECTORS, macroblocks, row, column, best_row, best_column
        )
    v_row = np.int64(macroblocks.vectors[row, column, 0, 0])
    v_column = np.int64(macroblocks.vectors[row, column, 0, 1])
    return record_vector(records, count, VECTORS, v_row, v_column, best_row, best_column)


@kernel
def _record_row(row, key_frame, update_map, skip_enabled, sign_bias, macroblocks, records):
    """Record what `read_modes` reads of one row of macroblocks; gives the number of records."""
    count = 0
    for column in range(macroblocks.y_mode.shape[1]):
        if update_map:
            segment = np.int64(macroblocks.segment[row, column])
            count = record_tree(records, count, SEGMENT_TREE, SEGMENT, segment)
        if skip_enabled:
            count = record(records, count, SKIP, np.int64(macroblocks.skip[row, column]))
        inter = macroblocks.reference[row, column] != INTRA_FRAME
        if not key_frame:
            count = record(records, count, INTRA, 1 if inter else 0)
        if inter:
            count = _record_inter(records, count, sign_bias, macroblocks, row, column)
        else:
            count = _record_intra(records, count, key_frame, macroblocks, row, column)
    return count


@kernel
def _write_rows(
    state, out, probabilities, key_frame, update_map, skip_enabled, sign_bias, macroblocks, records
):
    for row in range(len(macroblocks.y_mode)):
        count = _record_row(
            row, key_frame, update_map, skip_enabled, sign_bias, macroblocks, records
        )
        write_records(state, out, probabilities, records, count)


@kernel
def _count_rows(key_frame, update_map, skip_enabled, sign_bias, macroblocks, records, counts):
    for row in range(len(macroblocks.y_mode)):
        count = _record_row(
            row, key_frame, update_map, skip_enabled, sign_bias, macroblocks, records
        )
        count_records(records, count, counts)


def _room(macroblocks: Macroblocks) -> NDArray[np.uint16]:
    """Room for the records of a row."""
    return np.empty(RECORDS_OF_A_MACROBLOCK * macroblocks.y_mode.shape[1], np.uint16)


def write_modes(
    writer: BoolWriter, header: FrameHeader, tables: ProbabilityTables, macroblocks: Macroblocks
) -> None:
    """Write what `read_modes` reads, of all macroblocks of a frame."""
    _write_rows(
        writer.state,
        writer.out,
        mode_probabilities(header, tables),
        header.key_frame,
        header.segmentation.update_map,
        header.skip_enabled,
        header.sign_bias,
        macroblocks,
        _room(macroblocks),
    )


def count_modes(header: FrameHeader, macroblocks: Macroblocks) -> NDArray[np.int64]:
    """(MODE_PROBABILITIES, 2): how often each boolean of a probability that frames can change is 0 and 1."""
    counts = np.zeros((MODE_PROBABILITIES, 2), np.int64)
    _count_rows(
        header.key_frame,
        header.segmentation.update_map,
        header.skip_enabled,
        header.sign_bias,
        macroblocks,
        _room(macroblocks),
        counts,
    )
    return counts


def recorded_modes(header: FrameHeader, macroblocks: Macroblocks) -> Iterator[NDArray[np.uint16]]:
    """Records of what `read_modes` reads, row by row; each array is filled anew for the next."""
    records = _room(macroblocks)
    for row in range(len(macroblocks.y_mode)):
        count = _record_row(
            row,
            header.key_frame,
            header.segmentation.update_map,
            header.skip_enabled,
            header.sign_bias,
            macroblocks,
            records,
        )
        yield records[:count]
