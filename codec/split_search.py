"""Search for the vectors of a split macroblock: quarters first, halves from what they found, subblocks where that pays.

Each part takes the cheapest of its neighbours' vectors, zero, and one of its own (RFC 6386 section 16.3), by SATD and rate.
"""

from __future__ import annotations

import numpy as np

from codec.frame import (
    BORDER,
    LEFT4X4,
    NEW4X4,
    SPLIT_4X4,
    SPLIT_8X16,
    SPLIT_16X8,
    SPLIT_QUARTERS,
    ZERO4X4,
)
from codec.kernel import inline_kernel, kernel
from codec.motion import FIRST_BLOCKS, SPLIT_COUNTS, sub_vector_context
from codec.motion_search import (
    SATD_SHIFT,
    Target,
    is_inside,
    measure_4x4,
    measure_8x8,
    search_4x4,
    search_8x8,
    search_window,
    vector_rate,
)
from codec.tables import MBSPLITS

_FAR = np.int64(1) << 60
_NEVER_SPLIT = 2 << SATD_SHIFT
"""Screening cost a pixel row, below which nothing is gained by a split."""


@inline_kernel
def _neighbours(macroblocks, mb_row, mb_col, vectors, block):  # type: ignore[no-untyped-def]
    """Vectors to the left of and above a subblock, those of its own macroblock from vectors (16, 2)."""
    left_row = left_column = above_row = above_column = np.int64(0)
    if block & 3:
        left_row, left_column = np.int64(vectors[block - 1, 0]), np.int64(vectors[block - 1, 1])
    elif mb_col > 0:
        left_row = np.int64(macroblocks.vectors[mb_row, mb_col - 1, block + 3, 0])
        left_column = np.int64(macroblocks.vectors[mb_row, mb_col - 1, block + 3, 1])
    if block >> 2:
        above_row, above_column = np.int64(vectors[block - 4, 0]), np.int64(vectors[block - 4, 1])
    elif mb_row > 0:
        above_row = np.int64(macroblocks.vectors[mb_row - 1, mb_col, block + 12, 0])
        above_column = np.int64(macroblocks.vectors[mb_row - 1, mb_col, block + 12, 1])
    return left_row, left_column, above_row, above_column


@kernel
def _measure_part(source, planes, y, x, partitioning, part, v_row, v_column):  # type: ignore[no-untyped-def]
    """SATD of a vector over one part of the macroblock at (y, x)."""
    if partitioning == SPLIT_4X4:
        return np.int64(
            measure_4x4(
                source, planes, y + 4 * (part >> 2), x + 4 * (part & 3), v_row, v_column
            )
        )
    total = np.int64(0)
    for quarter in range(4):
        if MBSPLITS[partitioning, (quarter >> 1) * 8 + (quarter & 1) * 2] == part:
            at_y, at_x = y + 8 * (quarter >> 1), x + 8 * (quarter & 1)
            total += np.int64(measure_8x8(source, planes, at_y, at_x, v_row, v_column))
    return total


@kernel
def _choose_part(  # type: ignore[no-untyped-def]
    frame, macroblocks, mb_row, mb_col, room, index, near, window, partitioning, part, found_row, found_column
):
    """Choose a part's vector among its neighbours', zero and the one found; gives screening cost and rate."""
    y, x = BORDER + 16 * mb_row, BORDER + 16 * mb_col
    planes = frame.planes[index]
    vectors = room.split_vectors[partitioning]
    first = np.int64(FIRST_BLOCKS[partitioning, part])
    left_row, left_column, above_row, above_column = _neighbours(
        macroblocks, mb_row, mb_col, vectors, first
    )
    context = sub_vector_context(left_row, left_column, above_row, above_column)
    rates = frame.rates.sub_vector[context]
    best, best_rate = _FAR, np.int64(0)
    best_mode, best_row, best_column = NEW4X4, np.int64(0), np.int64(0)
    for mode in range(LEFT4X4, NEW4X4 + 1):
        rate = np.int64(rates[mode - LEFT4X4])
        if mode == LEFT4X4:
            v_row, v_column = left_row, left_column
        elif mode == NEW4X4:
            v_row, v_column = found_row, found_column
            rate += vector_rate(
                frame.rates.vector, v_row, v_column, near.best_row, near.best_column
            )
        elif mode == ZERO4X4:
            v_row, v_column = np.int64(0), np.int64(0)
        else:
            v_row, v_column = above_row, above_column
        if not is_inside(window, v_row, v_column):
            continue
        satd = _measure_part(frame.source.y, planes, y, x, partitioning, part, v_row, v_column)
        cost = (satd << SATD_SHIFT) + rate * frame.satd_multiplier
        if cost < best:
            best, best_rate = cost, rate
            best_mode, best_row, best_column = mode, v_row, v_column
    for block in range(first, 16):
        if MBSPLITS[partitioning, block] == part:
            vectors[block, 0] = best_row
            vectors[block, 1] = best_column
            room.split_modes[partitioning, block] = best_mode
    return best, best_rate


@inline_kernel
def _start(room, i, v_row, v_column):  # type: ignore[no-untyped-def]
    room.starts[i, 0] = v_row
    room.starts[i, 1] = v_column


@kernel
def _search_part(frame, macroblocks, mb_row, mb_col, room, index, near, window, partitioning, part, v_row, v_column):  # type: ignore[no-untyped-def]
    """A vector of its own for a quarter or a subblock, into room.found, starting from a given one."""
    block = np.int64(FIRST_BLOCKS[partitioning, part])
    vectors = room.split_vectors[partitioning]
    left_row, left_column, above_row, above_column = _neighbours(
        macroblocks, mb_row, mb_col, vectors, block
    )
    _start(room, 0, v_row, v_column)
    _start(room, 1, left_row, left_column)
    _start(room, 2, above_row, above_column)
    target = Target(
        frame.source.y,
        frame.planes[index],
        BORDER + 16 * mb_row + 4 * (block >> 2),
        BORDER + 16 * mb_col + 4 * (block & 3),
        near.best_row,
        near.best_column,
        frame.rates.vector,
        frame.satd_multiplier,
    )
    if partitioning == SPLIT_4X4:
        search_4x4(target, window, room.starts, 3, room.found)
    else:
        search_8x8(target, window, room.starts, 3, room.found)


@kernel
def _search_partitioning(  # type: ignore[no-untyped-def]
    frame, macroblocks, mb_row, mb_col, room, index, near, window, partitioning, v_row, v_column, limit
):
    """Vectors and modes of one partitioning, into room.split_vectors and split_modes; gives screening cost and rate."""
    rate = np.int64(frame.rates.partitioning[partitioning])
    cost = rate * frame.satd_multiplier
    quarters = room.split_vectors[SPLIT_QUARTERS]
    for part in range(SPLIT_COUNTS[partitioning]):
        first = np.int64(FIRST_BLOCKS[partitioning, part])
        if partitioning == SPLIT_QUARTERS:
            room.found[0], room.found[1] = v_row, v_column
            _search_part(
                frame, macroblocks, mb_row, mb_col, room, index, near, window, partitioning, part, v_row, v_column
            )
        elif partitioning == SPLIT_4X4:
            _search_part(
                frame,
                macroblocks,
                mb_row,
                mb_col,
                room,
                index,
                near,
                window,
                partitioning,
                part,
                np.int64(quarters[first, 0]),
                np.int64(quarters[first, 1]),
            )
        else:
            _find_half(frame, mb_row, mb_col, room, index, near, partitioning, part, v_row, v_column)
        more, more_rate = _choose_part(
            frame,
            macroblocks,
            mb_row,
            mb_col,
            room,
            index,
            near,
            window,
            partitioning,
            part,
            room.found[0],
            room.found[1],
        )
        cost += more
        rate += more_rate
        if cost >= limit:
            return _FAR, rate
    return cost, rate


@kernel
def _find_half(frame, mb_row, mb_col, room, index, near, partitioning, part, v_row, v_column):  # type: ignore[no-untyped-def]
    """A half's own vector, into room.found: that of one of its quarters, or the whole macroblock's."""
    y, x = BORDER + 16 * mb_row, BORDER + 16 * mb_col
    quarters = room.split_vectors[SPLIT_QUARTERS]
    first = 8 * part if partitioning == SPLIT_16X8 else 2 * part
    second = first + 2 if partitioning == SPLIT_16X8 else first + 8
    best = _FAR
    for i in range(3):
        row, column = v_row, v_column
        if i == 1:
            row, column = np.int64(quarters[first, 0]), np.int64(quarters[first, 1])
        elif i == 2:
            row, column = np.int64(quarters[second, 0]), np.int64(quarters[second, 1])
        satd = _measure_part(
            frame.source.y, frame.planes[index], y, x, partitioning, part, row, column
        )
        rate = vector_rate(frame.rates.vector, row, column, near.best_row, near.best_column)
        cost = (satd << SATD_SHIFT) + rate * frame.satd_multiplier
        if cost < best:
            best = cost
            room.found[0], room.found[1] = row, column


@kernel
def search_split(  # type: ignore[no-untyped-def]
    frame, macroblocks, mb_row, mb_col, room, index, near, v_row, v_column, rate, limit
):
    """The partitioning of least screening cost, if that is below `limit`, else -1; and the rate of its vectors.

    `rate` is that of SPLITMV and the reference; (v_row, v_column) is the vector found for the whole macroblock.
    """
    if limit < 16 * _NEVER_SPLIT:
        return -1, rate
    height, width = frame.source.y.shape
    y, x = BORDER + 16 * mb_row, BORDER + 16 * mb_col
    window = search_window(height, width, y, x, near.best_row, near.best_column)
    limit -= rate * frame.satd_multiplier
    best, chosen, chosen_rate = limit, -1, np.int64(0)
    quarters, more = _search_partitioning(
        frame, macroblocks, mb_row, mb_col, room, index, near, window, SPLIT_QUARTERS, v_row, v_column, limit + (limit >> 3)
    )
    if quarters >= _FAR:
        return -1, rate
    if quarters < best:
        best, chosen, chosen_rate = quarters, SPLIT_QUARTERS, more
    for partitioning in (SPLIT_16X8, SPLIT_8X16):
        cost, more = _search_partitioning(
            frame, macroblocks, mb_row, mb_col, room, index, near, window, partitioning, v_row, v_column, best
        )
        if cost < best:
            best, chosen, chosen_rate = cost, partitioning, more
    if chosen == SPLIT_QUARTERS:
        cost, more = _search_partitioning(
            frame, macroblocks, mb_row, mb_col, room, index, near, window, SPLIT_4X4, v_row, v_column, best
        )
        if cost < best:
            best, chosen, chosen_rate = cost, SPLIT_4X4, more
    return chosen, chosen_rate
