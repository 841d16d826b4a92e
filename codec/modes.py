"""Per-macroblock modes (RFC 6386 chapters 8, 10, 11 and 16): segment, skip, prediction modes, references, vectors.

The probabilities that frames can change lie in one array, so that reading, writing and counting share their indices.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from codec.bool_coder import load_window, read_bool, store_window, write_bool
from codec.frame import (
    ALTREF_FRAME,
    B_DC_PRED,
    B_HD_PRED,
    B_HE_PRED,
    B_HU_PRED,
    B_LD_PRED,
    B_PRED,
    B_RD_PRED,
    B_TM_PRED,
    B_VE_PRED,
    B_VL_PRED,
    B_VR_PRED,
    DC_PRED,
    GOLDEN_FRAME,
    H_PRED,
    INTRA_FRAME,
    LAST_FRAME,
    NEARESTMV,
    NEARMV,
    NEWMV,
    SPLITMV,
    TM_PRED,
    V_PRED,
    ZEROMV,
)
from codec.frame_header import FrameHeader
from codec.kernel import inline_kernel, kernel
from codec.motion import find_near_vectors, read_split, read_vector, visit_split, visit_vector
from codec.state import ProbabilityTables
from codec.tables import (
    B_MODE_PROBS,
    KF_BMODE_PROBS,
    KF_UV_MODE_PROBS,
    KF_YMODE_PROBS,
    MODE_CONTEXTS,
)

# Places in the array of mode probabilities
Y_MODE, UV_MODE, VECTORS, SKIP, INTRA, LAST, GOLDEN, SEGMENT = 0, 4, 7, 45, 46, 47, 48, 49
MODE_PROBABILITIES = 52


def _tree(*nodes: int) -> NDArray[np.int8]:
    """A tree as in section 8.1: positive entries lead on, others are minus a value."""
    return np.array(nodes, np.int8)


Y_MODE_TREE = _tree(-DC_PRED, 2, 4, 6, -V_PRED, -H_PRED, -TM_PRED, -B_PRED)
KF_Y_MODE_TREE = _tree(-B_PRED, 2, 4, 6, -DC_PRED, -V_PRED, -H_PRED, -TM_PRED)
UV_MODE_TREE = _tree(-DC_PRED, 2, -V_PRED, 4, -H_PRED, -TM_PRED)
B_MODE_TREE = _tree(
    *(-B_DC_PRED, 2, -B_TM_PRED, 4, -B_VE_PRED, 6, 8, 12, -B_HE_PRED, 10, -B_RD_PRED, -B_VR_PRED),
    *(-B_LD_PRED, 14, -B_VL_PRED, 16, -B_HD_PRED, -B_HU_PRED),
)
SEGMENT_TREE = _tree(2, 4, -0, -1, -2, -3)


def _codes(tree: NDArray[np.int8], values: int) -> NDArray[np.int16]:
    """Path to each value: (values, 2) of bits, first one highest, and their number."""
    codes = np.zeros((values, 2), np.int16)

    def walk(node: int, bits: int, length: int) -> None:
        for bit in (0, 1):
            target = int(tree[node + bit])
            if target > 0:
                walk(target, 2 * bits + bit, length + 1)
            else:
                codes[-target] = (2 * bits + bit, length + 1)

    walk(0, 0, 0)
    return codes


Y_MODE_CODES, KF_Y_MODE_CODES = _codes(Y_MODE_TREE, 5), _codes(KF_Y_MODE_TREE, 5)
UV_MODE_CODES, B_MODE_CODES = _codes(UV_MODE_TREE, 4), _codes(B_MODE_TREE, 10)
SEGMENT_CODES = _codes(SEGMENT_TREE, 4)

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


@inline_kernel
def _read_tree(data, window, tree, probabilities, base):  # type: ignore[no-untyped-def]
    """A value of a tree whose first probability is probabilities[base] (section 8.1)."""
    node = np.int64(0)
    while True:
        window, bit = read_bool(data, window, probabilities[base + (node >> 1)])
        node = np.int64(tree[node + bit])
        if node <= 0:
            return window, -node


@kernel
def _read_sub_modes(data, window, key_frame, macroblocks, row, column):  # type: ignore[no-untyped-def]
    """The 16 subblock modes of a B_PRED macroblock: with contexts on key frames (section 11.3), else without."""
    sub_modes = macroblocks.sub_modes
    for block in range(16):
        if key_frame:
            above = left = np.int64(B_DC_PRED)
            if block >> 2:
                above = np.int64(sub_modes[row, column, block - 4])
            elif row > 0:
                above = np.int64(sub_modes[row - 1, column, block + 12])
            if block & 3:
                left = np.int64(sub_modes[row, column, block - 1])
            elif column > 0:
                left = np.int64(sub_modes[row, column - 1, block + 3])
            window, mode = _read_tree(data, window, B_MODE_TREE, KF_BMODE_PROBS[above, left], 0)
        else:
            window, mode = _read_tree(data, window, B_MODE_TREE, B_MODE_PROBS, 0)
        sub_modes[row, column, block] = mode
    return window


@inline_kernel
def _fill_vectors(macroblocks, row, column, v_row, v_column):  # type: ignore[no-untyped-def]
    for block in range(16):
        macroblocks.vectors[row, column, block, 0] = v_row
        macroblocks.vectors[row, column, block, 1] = v_column


@kernel
def _read_intra(data, window, key_frame, probabilities, macroblocks, row, column):  # type: ignore[no-untyped-def]
    """Modes of an intra macroblock (sections 11.2 to 11.4, 16.1 and 16.2)."""
    if key_frame:
        window, y_mode = _read_tree(data, window, KF_Y_MODE_TREE, KF_YMODE_PROBS, 0)
    else:
        window, y_mode = _read_tree(data, window, Y_MODE_TREE, probabilities, Y_MODE)
    if y_mode == B_PRED:
        window = _read_sub_modes(data, window, key_frame, macroblocks, row, column)
    elif key_frame:
        macroblocks.sub_modes[row, column, :] = IMPLIED_SUB_MODES[y_mode]
    if key_frame:
        window, uv_mode = _read_tree(data, window, UV_MODE_TREE, KF_UV_MODE_PROBS, 0)
    else:
        window, uv_mode = _read_tree(data, window, UV_MODE_TREE, probabilities, UV_MODE)
    macroblocks.reference[row, column] = INTRA_FRAME
    macroblocks.y_mode[row, column] = y_mode
    macroblocks.uv_mode[row, column] = uv_mode
    _fill_vectors(macroblocks, row, column, 0, 0)
    return window


@kernel
def _read_inter(data, window, probabilities, sign_bias, macroblocks, row, column):  # type: ignore[no-untyped-def]
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
):  # type: ignore[no-untyped-def]
    """Read what a frame says of each macroblock before its tokens.

    window (5,) int64 is read and updated; probabilities as `mode_probabilities` gives them; sign_bias (4,) uint8.
    macroblocks.segment holds the map so far, and is changed only if `update_map`.
    """
    place = load_window(window)
    rows, columns = macroblocks.y_mode.shape
    for row in range(rows):
        for column in range(columns):
            if update_map:
                place, segment = _read_tree(data, place, SEGMENT_TREE, probabilities, SEGMENT)
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


@inline_kernel
def _visit_tree(emit, sink, tree, codes, probabilities, base, index, value):  # type: ignore[no-untyped-def]
    """Emit a value; `index` is where its first probability is counted, -1 if it is fixed."""
    bits, length = np.int64(codes[value, 0]), np.int64(codes[value, 1])
    node = np.int64(0)
    for i in range(length):
        bit = (bits >> (length - 1 - i)) & 1
        at = node >> 1
        emit(sink, index + at if index >= 0 else -1, probabilities[base + at], bit)
        node = np.int64(tree[node + bit])


@inline_kernel
def _visit_sub_modes(emit, sink, key_frame, macroblocks, row, column):  # type: ignore[no-untyped-def]
    sub_modes = macroblocks.sub_modes
    for block in range(16):
        mode = np.int64(sub_modes[row, column, block])
        if key_frame:
            above = left = np.int64(B_DC_PRED)
            if block >> 2:
                above = np.int64(sub_modes[row, column, block - 4])
            elif row > 0:
                above = np.int64(sub_modes[row - 1, column, block + 12])
            if block & 3:
                left = np.int64(sub_modes[row, column, block - 1])
            elif column > 0:
                left = np.int64(sub_modes[row, column - 1, block + 3])
            _visit_tree(
                emit, sink, B_MODE_TREE, B_MODE_CODES, KF_BMODE_PROBS[above, left], 0, -1, mode
            )
        else:
            _visit_tree(emit, sink, B_MODE_TREE, B_MODE_CODES, B_MODE_PROBS, 0, -1, mode)


@inline_kernel
def _visit_intra(emit, sink, probabilities, key_frame, macroblocks, row, column):  # type: ignore[no-untyped-def]
    y_mode = np.int64(macroblocks.y_mode[row, column])
    uv_mode = np.int64(macroblocks.uv_mode[row, column])
    if key_frame:
        _visit_tree(emit, sink, KF_Y_MODE_TREE, KF_Y_MODE_CODES, KF_YMODE_PROBS, 0, -1, y_mode)
    else:
        _visit_tree(emit, sink, Y_MODE_TREE, Y_MODE_CODES, probabilities, Y_MODE, Y_MODE, y_mode)
    if y_mode == B_PRED:
        _visit_sub_modes(emit, sink, key_frame, macroblocks, row, column)
    if key_frame:
        _visit_tree(emit, sink, UV_MODE_TREE, UV_MODE_CODES, KF_UV_MODE_PROBS, 0, -1, uv_mode)
    else:
        _visit_tree(
            emit, sink, UV_MODE_TREE, UV_MODE_CODES, probabilities, UV_MODE, UV_MODE, uv_mode
        )


@inline_kernel
def _visit_inter(emit, sink, probabilities, sign_bias, macroblocks, row, column):  # type: ignore[no-untyped-def]
    reference = np.int64(macroblocks.reference[row, column])
    emit(sink, LAST, probabilities[LAST], 1 if reference != LAST_FRAME else 0)
    if reference != LAST_FRAME:
        emit(sink, GOLDEN, probabilities[GOLDEN], 1 if reference == ALTREF_FRAME else 0)
    near = find_near_vectors(macroblocks, row, column, reference, sign_bias)
    mode = macroblocks.y_mode[row, column]
    emit(sink, -1, MODE_CONTEXTS[near.count_zero, 0], 1 if mode != ZEROMV else 0)
    if mode == ZEROMV:
        return
    emit(sink, -1, MODE_CONTEXTS[near.count_nearest, 1], 1 if mode != NEARESTMV else 0)
    if mode == NEARESTMV:
        return
    emit(sink, -1, MODE_CONTEXTS[near.count_near, 2], 1 if mode != NEARMV else 0)
    if mode == NEARMV:
        return
    emit(sink, -1, MODE_CONTEXTS[near.count_split, 3], 1 if mode == SPLITMV else 0)
    best_row, best_column = near.best_row, near.best_column
    if mode == SPLITMV:
        visit_split(
            emit, sink, probabilities, VECTORS, macroblocks, row, column, best_row, best_column
        )
    else:
        v_row = np.int64(macroblocks.vectors[row, column, 0, 0])
        v_column = np.int64(macroblocks.vectors[row, column, 0, 1])
        visit_vector(emit, sink, probabilities, VECTORS, v_row, v_column, best_row, best_column)


@inline_kernel
def _visit_modes(
    emit, sink, probabilities, key_frame, update_map, skip_enabled, sign_bias, macroblocks
):  # type: ignore[no-untyped-def]
    rows, columns = macroblocks.y_mode.shape
    for row in range(rows):
        for column in range(columns):
            if update_map:
                segment = np.int64(macroblocks.segment[row, column])
                _visit_tree(
                    emit,
                    sink,
                    SEGMENT_TREE,
                    SEGMENT_CODES,
                    probabilities,
                    SEGMENT,
                    SEGMENT,
                    segment,
                )
            if skip_enabled:
                emit(sink, SKIP, probabilities[SKIP], np.int64(macroblocks.skip[row, column]))
            inter = macroblocks.reference[row, column] != INTRA_FRAME
            if not key_frame:
                emit(sink, INTRA, probabilities[INTRA], 1 if inter else 0)
            if inter:
                _visit_inter(emit, sink, probabilities, sign_bias, macroblocks, row, column)
            else:
                _visit_intra(emit, sink, probabilities, key_frame, macroblocks, row, column)


@kernel
def _emit_write(sink, index, probability, bit):  # type: ignore[no-untyped-def]
    write_bool(sink[0], sink[1], np.int64(probability), bit)


@inline_kernel
def _emit_count(sink, index, probability, bit):  # type: ignore[no-untyped-def]
    if index >= 0:
        sink[index, bit] += 1


@kernel
def write_modes(
    state, out, probabilities, key_frame, update_map, skip_enabled, sign_bias, macroblocks
):  # type: ignore[no-untyped-def]
    """Write what `read_modes` reads, to a writer (state, out)."""
    sink = (state, out)
    _visit_modes(
        _emit_write,
        sink,
        probabilities,
        key_frame,
        update_map,
        skip_enabled,
        sign_bias,
        macroblocks,
    )


@kernel
def count_modes(probabilities, key_frame, update_map, skip_enabled, sign_bias, macroblocks, counts):  # type: ignore[no-untyped-def]
    """Add up how often each boolean of the changeable probabilities is 0 and 1: counts (MODE_PROBABILITIES, 2) int64."""
    _visit_modes(
        _emit_count,
        counts,
        probabilities,
        key_frame,
        update_map,
        skip_enabled,
        sign_bias,
        macroblocks,
    )
