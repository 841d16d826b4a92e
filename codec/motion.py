"""Motion vectors (RFC 6386 chapter 5 and sections 16.3 and 17): near vectors, contexts, reading and writing.

Vectors are (row, column) in quarter pixels. Places of records are those of the mode probabilities of modes.py.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from codec.bool_coder import read_bool, read_tree
from codec.frame import (
    ABOVE4X4,
    INTRA_FRAME,
    LEFT4X4,
    NEW4X4,
    SPLITMV,
)
from codec.kernel import part_kernel
from codec.records import record, record_fixed_tree, record_tree
from codec.tables import (
    MBSPLIT_PROBS,
    MBSPLIT_TREE,
    MBSPLITS,
    SMALL_MV_TREE,
    SUB_MV_REF_PROBS,
    SUB_MV_REF_TREE,
)

# Layout of the 19 probabilities of a vector component (section 17.2)
IS_SHORT, SIGN, SHORT_TREE, LONG_BITS = 0, 1, 2, 9
LONG_WIDTH = 10
LARGEST_MAGNITUDE = (1 << LONG_WIDTH) - 1
"""Longest difference of vectors that can be written, quarter pixels."""
MARGIN = 64
"""Quarter pixels by which near vectors may move a macroblock over the picture's edge: its own 16 pixels."""

SPLIT_COUNTS = np.array([2, 2, 4, 16], np.uint8)
"""Parts of each partitioning."""
FIRST_BLOCKS = np.array(
    [[list(row).index(min(i, max(row))) for i in range(16)] for row in MBSPLITS], np.uint8
)
"""First subblock of each part, (4, 16); entries past the number of parts are not used."""


class NearVectors(NamedTuple):
    """Candidates from the neighbours (section 5): clamped vectors, and four counts that choose probabilities."""

    nearest_row: int
    nearest_column: int
    near_row: int
    near_column: int
    best_row: int
    best_column: int
    count_zero: int
    count_nearest: int
    count_near: int
    count_split: int


@part_kernel
def wrap_vector(component):
    """A component as libvpx keeps it: 16 bits in eighths of a pixel, so 15 bits here."""
    return ((component + 16384) & 32767) - 16384


@part_kernel
def clamp_vector(vector_row, vector_column, row, column, rows, columns):
    """Keep a vector of macroblock (row, column) from pointing further than MARGIN out of the picture."""
    top, left = -64 * row - MARGIN, -64 * column - MARGIN
    bottom, right = 64 * (rows - 1 - row) + MARGIN, 64 * (columns - 1 - column) + MARGIN
    return min(max(vector_row, top), bottom), min(max(vector_column, left), right)


@part_kernel
def find_near_vectors(macroblocks, row, column, reference, sign_bias):
    """Look at the macroblocks above, to the left and above left of (row, column); sign_bias is (4,) uint8."""
    rows, columns = macroblocks.y_mode.shape
    v1_row = v1_column = v2_row = v2_column = v3_row = v3_column = np.int64(0)
    c0 = c1 = c2 = c3 = 0
    found = 0
    splits = 0
    for neighbour in range(3):
        at_row = row - (1 if neighbour != 1 else 0)
        at_column = column - (1 if neighbour != 0 else 0)
        weight = 1 if neighbour == 2 else 2
        if at_row < 0 or at_column < 0:
            continue
        of = macroblocks.reference[at_row, at_column]
        if of == INTRA_FRAME:
            continue
        if macroblocks.y_mode[at_row, at_column] == SPLITMV:
            splits += weight
        v_row = np.int64(macroblocks.vectors[at_row, at_column, 15, 0])
        v_column = np.int64(macroblocks.vectors[at_row, at_column, 15, 1])
        if v_row == 0 and v_column == 0:
            c0 += weight
            continue
        if sign_bias[of] != sign_bias[reference]:
            v_row, v_column = -v_row, -v_column
        if found == 0 or v_row != v1_row or v_column != v1_column:
            found += 1
            v3_row, v3_column = v2_row, v2_column
            v2_row, v2_column = v1_row, v1_column
            v1_row, v1_column = v_row, v_column
        if found == 1:
            c1 += weight
        elif found == 2:
            c2 += weight
        else:
            c3 += weight
    # v1 is the latest of the vectors found so far: put them in the order in which they were found
    if found == 1:
        nearest_row, nearest_column, near_row, near_column = (
            v1_row,
            v1_column,
            np.int64(0),
            np.int64(0),
        )
    elif found == 2:
        nearest_row, nearest_column, near_row, near_column = v2_row, v2_column, v1_row, v1_column
    else:
        nearest_row, nearest_column, near_row, near_column = v3_row, v3_column, v2_row, v2_column
        if found == 3 and v1_row == v3_row and v1_column == v3_column:
            c1 += 1
    if c2 > c1:
        c1, c2 = c2, c1
        nearest_row, near_row = near_row, nearest_row
        nearest_column, near_column = near_column, nearest_column
    best_row = best_column = np.int64(0)
    if c1 >= c0:
        best_row, best_column = nearest_row, nearest_column
    nearest_row, nearest_column = clamp_vector(
        nearest_row, nearest_column, row, column, rows, columns
    )
    near_row, near_column = clamp_vector(near_row, near_column, row, column, rows, columns)
    best_row, best_column = clamp_vector(best_row, best_column, row, column, rows, columns)
    return NearVectors(
        nearest_row,
        nearest_column,
        near_row,
        near_column,
        best_row,
        best_column,
        c0,
        c1,
        c2,
        splits,
    )


@part_kernel
def neighbour_vectors(macroblocks, row, column, vectors, block):
    """Vectors of the subblocks to the left of and above a subblock: left row, column, above row, column.

    vectors (16, 2) are those of its own macroblock, so far.
    """
    left_row = left_column = above_row = above_column = np.int64(0)
    if block & 3:
        left_row, left_column = np.int64(vectors[block - 1, 0]), np.int64(vectors[block - 1, 1])
    elif column > 0:
        left_row = np.int64(macroblocks.vectors[row, column - 1, block + 3, 0])
        left_column = np.int64(macroblocks.vectors[row, column - 1, block + 3, 1])
    if block >> 2:
        above_row, above_column = np.int64(vectors[block - 4, 0]), np.int64(vectors[block - 4, 1])
    elif row > 0:
        above_row = np.int64(macroblocks.vectors[row - 1, column, block + 12, 0])
        above_column = np.int64(macroblocks.vectors[row - 1, column, block + 12, 1])
    return left_row, left_column, above_row, above_column


@part_kernel
def sub_vector_context(left_row, left_column, above_row, above_column):
    """Row of SUB_MV_REF_PROBS by the neighbours' vectors (section 16.3)."""
    left_zero = left_row == 0 and left_column == 0
    above_zero = above_row == 0 and above_column == 0
    if left_row == above_row and left_column == above_column:
        return 4 if above_zero else 3
    if above_zero:
        return 2
    return 1 if left_zero else 0


# Reading -----------------------------------------------------------------------------------------------------------


@part_kernel
def _read_component(data, window, probabilities, base):
    """One component of a vector difference (section 17.2), with probabilities[base : base + 19]."""
    window, long_form = read_bool(data, window, probabilities[base + IS_SHORT])
    magnitude = np.int64(0)
    if long_form:
        for i in range(3):
            window, bit = read_bool(data, window, probabilities[base + LONG_BITS + i])
            magnitude += bit << i
        for i in range(LONG_WIDTH - 1, 3, -1):
            window, bit = read_bool(data, window, probabilities[base + LONG_BITS + i])
            magnitude += bit << i
        bit = 1
        if magnitude > 15:
            window, bit = read_bool(data, window, probabilities[base + LONG_BITS + 3])
        magnitude += bit << 3
    else:
        window, magnitude = read_tree(data, window, SMALL_MV_TREE, probabilities, base + SHORT_TREE)
    if magnitude:
        window, sign = read_bool(data, window, probabilities[base + SIGN])
        if sign:
            magnitude = -magnitude
    return window, magnitude


@part_kernel
def read_vector(data, window, probabilities, base, best_row, best_column):
    """A vector coded as the difference from the best one; rows come first."""
    v_row, v_column = best_row, best_column
    for component in range(2):
        window, difference = _read_component(data, window, probabilities, base + 19 * component)
        if component == 0:
            v_row = wrap_vector(best_row + difference)
        else:
            v_column = wrap_vector(best_column + difference)
    return window, v_row, v_column


@part_kernel
def read_split(data, window, probabilities, base, macroblocks, row, column, best_row, best_column):
    """Partitioning, sub modes and vectors of a SPLITMV macroblock (section 16.3)."""
    window, partitioning = read_tree(data, window, MBSPLIT_TREE, MBSPLIT_PROBS, 0)
    macroblocks.partitioning[row, column] = partitioning
    for part in range(SPLIT_COUNTS[partitioning]):
        first = np.int64(FIRST_BLOCKS[partitioning, part])
        left_row, left_column, above_row, above_column = neighbour_vectors(
            macroblocks, row, column, macroblocks.vectors[row, column], first
        )
        context = sub_vector_context(left_row, left_column, above_row, above_column)
        window, which = read_tree(data, window, SUB_MV_REF_TREE, SUB_MV_REF_PROBS[context], 0)
        mode, v_row, v_column = LEFT4X4 + which, np.int64(0), np.int64(0)
        if mode == LEFT4X4:
            v_row, v_column = left_row, left_column
        elif mode == ABOVE4X4:
            v_row, v_column = above_row, above_column
        elif mode == NEW4X4:
            window, v_row, v_column = read_vector(
                data, window, probabilities, base, best_row, best_column
            )
        for block in range(first, 16):
            if MBSPLITS[partitioning, block] == part:
                macroblocks.sub_modes[row, column, block] = mode
                macroblocks.vectors[row, column, block, 0] = v_row
                macroblocks.vectors[row, column, block, 1] = v_column
    return window


# Writing and counting ----------------------------------------------------------------------------------------------


@part_kernel
def _record_component(records, count, base, difference):
    magnitude = abs(difference)
    count = record(records, count, base + IS_SHORT, 0 if magnitude < 8 else 1)
    if magnitude < 8:
        count = record_tree(records, count, SMALL_MV_TREE, base + SHORT_TREE, magnitude)
    else:
        for i in range(3):
            count = record(records, count, base + LONG_BITS + i, (magnitude >> i) & 1)
        for i in range(LONG_WIDTH - 1, 3, -1):
            count = record(records, count, base + LONG_BITS + i, (magnitude >> i) & 1)
        if magnitude > 15:
            count = record(records, count, base + LONG_BITS + 3, (magnitude >> 3) & 1)
    if magnitude:
        count = record(records, count, base + SIGN, 1 if difference < 0 else 0)
    return count


@part_kernel
def record_vector(records, count, base, v_row, v_column, best_row, best_column):
    """A vector as its difference from the best one; rows come first."""
    for component in range(2):
        difference = v_row - best_row if component == 0 else v_column - best_column
        count = _record_component(records, count, base + 19 * component, wrap_vector(difference))
    return count


@part_kernel
def record_split(records, count, base, macroblocks, row, column, best_row, best_column):
    """Partitioning, sub modes and vectors of a SPLITMV macroblock."""
    partitioning = macroblocks.partitioning[row, column]
    count = record_fixed_tree(records, count, MBSPLIT_TREE, MBSPLIT_PROBS, partitioning)
    for part in range(SPLIT_COUNTS[partitioning]):
        first = np.int64(FIRST_BLOCKS[partitioning, part])
        left_row, left_column, above_row, above_column = neighbour_vectors(
            macroblocks, row, column, macroblocks.vectors[row, column], first
        )
        context = sub_vector_context(left_row, left_column, above_row, above_column)
        mode = np.int64(macroblocks.sub_modes[row, column, first])
        count = record_fixed_tree(
            records, count, SUB_MV_REF_TREE, SUB_MV_REF_PROBS[context], mode - LEFT4X4
        )
        if mode == NEW4X4:
            v_row = np.int64(macroblocks.vectors[row, column, first, 0])
            v_column = np.int64(macroblocks.vectors[row, column, first, 1])
            count = record_vector(records, count, base, v_row, v_column, best_row, best_column)
    return count
