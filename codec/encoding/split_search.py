"""Search for the vectors of a split macroblock: quarters first, halves from what they found, subblocks where that pays.

Each part takes the cheapest of its neighbours' vectors, zero, and some of its own (RFC 6386 section 16.3), by SATD and
rate.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from codec.encoding.motion_search import (
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
from codec.encoding.screening import FAR, satd_weight
from codec.frame import (
    BORDER,
    LEFT4X4,
    SPLIT_4X4,
    SPLIT_8X16,
    SPLIT_16X8,
    SPLIT_QUARTERS,
)
from codec.kernel import inline_kernel, kernel, part_kernel
from codec.motion import FIRST_BLOCKS, SPLIT_COUNTS, neighbour_vectors, sub_vector_context
from codec.tables import MBSPLITS

_ORDER = np.array([SPLIT_QUARTERS, SPLIT_16X8, SPLIT_8X16, SPLIT_4X4], np.int64)


@kernel
def _measure_part(source, planes, y, x, partitioning, part, v_row, v_column):
    """SATD of a vector over one part of the macroblock at (y, x)."""
    if partitioning == SPLIT_4X4:
        return np.int64(
            measure_4x4(source, planes, y + 4 * (part >> 2), x + 4 * (part & 3), v_row, v_column)
        )
    total = np.int64(0)
    for quarter in range(4):
        if MBSPLITS[partitioning, (quarter >> 1) * 8 + (quarter & 1) * 2] == part:
            at_y, at_x = y + 8 * (quarter >> 1), x + 8 * (quarter & 1)
            total += np.int64(measure_8x8(source, planes, at_y, at_x, v_row, v_column))
    return total


class _Search(NamedTuple):
    """A macroblock whose splits are looked for."""

    frame: Any
    macroblocks: Any
    room: Any
    mb_row: int
    mb_col: int
    planes: Any  # half-pixel planes of the reference
    near: Any
    window: Any
    v_row: int  # the vector found for the whole macroblock
    v_column: int
    weight: int  # of a bit x 256 against a SATD


@part_kernel
def _search_part(at, partitioning, block):
    """A vector of its own for the quarter or subblock that begins at `block`, into room.found, from room.starts."""
    frame, room = at.frame, at.room
    target = Target(
        frame.source.y,
        at.planes,
        BORDER + 16 * at.mb_row + 4 * (block >> 2),
        BORDER + 16 * at.mb_col + 4 * (block & 3),
        at.near.best_row,
        at.near.best_column,
        frame.rates.vector,
        at.weight,
    )
    if partitioning == SPLIT_4X4:
        search_4x4(target, at.window, room.starts, 3, room.found)
    else:
        search_8x8(target, at.window, room.starts, 3, room.found)


@part_kernel
def _set_start(room, i, v_row, v_column):
    room.starts[i, 0] = v_row
    room.starts[i, 1] = v_column


@part_kernel
def _collect_candidates(at, partitioning, block, around):
    """Vectors that the part beginning at `block` may take, into room.starts: left, above, zero, its own; gives their number.

    `around` holds its neighbours' vectors.
    """
    room = at.room
    quarters = room.split_vectors[SPLIT_QUARTERS]
    if partitioning == SPLIT_QUARTERS or partitioning == SPLIT_4X4:
        row, column = at.v_row, at.v_column
        if partitioning == SPLIT_4X4:
            row, column = np.int64(quarters[block, 0]), np.int64(quarters[block, 1])
        _set_start(room, 0, row, column)
        _set_start(room, 1, around[0], around[1])
        _set_start(room, 2, around[2], around[3])
        _search_part(at, partitioning, block)
        _set_start(room, 3, room.found[0], room.found[1])
        count = 4
    else:
        other = block + 2 if partitioning == SPLIT_16X8 else block + 8
        _set_start(room, 3, at.v_row, at.v_column)
        _set_start(room, 4, np.int64(quarters[block, 0]), np.int64(quarters[block, 1]))
        _set_start(room, 5, np.int64(quarters[other, 0]), np.int64(quarters[other, 1]))
        count = 6
    _set_start(room, 0, around[0], around[1])
    _set_start(room, 1, around[2], around[3])
    _set_start(room, 2, np.int64(0), np.int64(0))
    return count


@inline_kernel
def _is_said_cheaper(at, i, context):
    """Whether a candidate's vector is that of one before it, which costs no more."""
    starts, rates = at.room.starts, at.frame.rates.sub_vector
    found = False
    for j in range(i):
        same = (starts[i, 0] == starts[j, 0]) & (starts[i, 1] == starts[j, 1])
        rate = rates[context, j if j < 3 else 3]
        found = found | (same & (rate <= rates[context, i if i < 3 else 3]))
    return found


@part_kernel
def _choose_vector(at, partitioning, part, count, context):
    """The candidate of room.starts that is best for a part; gives its number, screening cost and rate."""
    frame, near = at.frame, at.near
    planes = at.planes
    y, x = BORDER + 16 * at.mb_row, BORDER + 16 * at.mb_col
    best, best_rate, chosen = FAR, np.int64(0), np.int64(0)
    for i in range(count):
        v_row, v_column = at.room.starts[i, 0], at.room.starts[i, 1]
        if not is_inside(at.window, v_row, v_column) or _is_said_cheaper(at, i, context):
            continue
        rate = np.int64(frame.rates.sub_vector[context, i if i < 3 else 3])
        if i >= 3:
            rate += vector_rate(
                frame.rates.vector, v_row, v_column, near.best_row, near.best_column
            )
        if rate * at.weight >= best:
            continue
        satd = _measure_part(frame.source.y, planes, y, x, partitioning, part, v_row, v_column)
        cost = (satd << SATD_SHIFT) + rate * at.weight
        if cost < best:
            best, best_rate, chosen = cost, rate, i
    return chosen, best, best_rate


@part_kernel
def _search_partitioning(at, partitioning, limit):
    """Vectors and modes of one partitioning, into room.split_vectors and split_modes; gives screening cost and rate."""
    room = at.room
    rate = np.int64(at.frame.rates.partitioning[partitioning])
    cost = rate * at.weight
    vectors = room.split_vectors[partitioning]
    if cost >= limit:
        return FAR, rate
    for part in range(np.int64(SPLIT_COUNTS[partitioning])):
        first = np.int64(FIRST_BLOCKS[partitioning, part])
        around = neighbour_vectors(at.macroblocks, at.mb_row, at.mb_col, vectors, first)
        count = _collect_candidates(at, partitioning, first, around)
        context = sub_vector_context(around[0], around[1], around[2], around[3])
        chosen, more, more_rate = _choose_vector(at, partitioning, part, count, context)
        for block in range(first, 16):
            if np.int64(MBSPLITS[partitioning, block]) == part:
                vectors[block, 0] = room.starts[chosen, 0]
                vectors[block, 1] = room.starts[chosen, 1]
                room.split_modes[partitioning, block] = LEFT4X4 + min(chosen, np.int64(3))
        cost += more
        rate += more_rate
        if cost >= limit:
            return FAR, rate
    return cost, rate


@part_kernel
def search_split(
    frame, macroblocks, mb_row, mb_col, room, planes, near, v_row, v_column, rate, limit
):
    """The partitioning of least screening cost, if that is below `limit`, else -1; and the rate of its vectors.

    `planes` are of the reference, `rate` is that of SPLITMV and the reference; (v_row, v_column) is the vector found for the
    whole macroblock.
    """
    height, width = frame.source.y.shape
    y, x = BORDER + 16 * mb_row, BORDER + 16 * mb_col
    window = search_window(height, width, y, x, near.best_row, near.best_column)
    weight = satd_weight(frame, mb_row, mb_col)
    at = _Search(
        frame, macroblocks, room, mb_row, mb_col, planes, near, window, v_row, v_column, weight
    )
    limit -= rate * weight
    best, chosen, chosen_rate = limit, np.int64(-1), np.int64(0)
    for turn in range(4):
        partitioning = _ORDER[turn]
        if partitioning == SPLIT_4X4 and chosen != SPLIT_QUARTERS:
            break
        bound = best if turn > 0 else limit + (limit >> 3)
        cost, more = _search_partitioning(at, partitioning, bound)
        if turn == 0 and cost >= FAR:
            break
        if cost < best:
            best, chosen, chosen_rate = cost, partitioning, more
    return chosen, chosen_rate
