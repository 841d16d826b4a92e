"""Candidates for a macroblock's mode, screened: each gets the cost of its SATD and its rate, before any residue is coded.

A candidate is a row of `room.kinds` with its cost in `room.costs`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from codec.encoding.motion_search import (
    SATD_SHIFT,
    Target,
    is_inside,
    measure_16x16,
    search_16x16,
    search_window,
    vector_rate,
)
from codec.encoding.satd import satd16x16
from codec.frame import BORDER, DC_PRED, INTRA_FRAME, NEARESTMV, NEARMV, NEWMV, TM_PRED, ZEROMV
from codec.kernel import inline_kernel, part_kernel
from codec.predict_intra import predict_16x16

FAR = np.int64(1) << 50
"""A cost above all others."""

MODE, REFERENCE, ROW, COLUMN, RATE = range(5)
"""Columns of `room.kinds`: a candidate's mode, its reference and vector, what these cost in bits."""


@part_kernel
def _set_kind(room, i, mode, reference, v_row, v_column, rate):
    room.kinds[i, MODE] = mode
    room.kinds[i, REFERENCE] = reference
    room.kinds[i, ROW] = v_row
    room.kinds[i, COLUMN] = v_column
    room.kinds[i, RATE] = rate


@inline_kernel
def satd_weight(frame, mb_row, mb_col):
    """How much a bit x 256 weighs against a SATD in a macroblock."""
    return frame.satd_multipliers[frame.segments[mb_row, mb_col]]


@part_kernel
def screen_intra(frame, mb_row, mb_col, picture, room, count):
    """Add the four intra modes of whole macroblocks; gives the number of candidates."""
    y, x = BORDER + 16 * mb_row, BORDER + 16 * mb_col
    weight = satd_weight(frame, mb_row, mb_col)
    for mode in range(DC_PRED, TM_PRED + 1):
        predict_16x16(picture.y, y, x, mode, room.trial.y, y, x)
        satd = np.int64(satd16x16(frame.source.y, y, x, room.trial.y, y, x))
        rate = np.int64(frame.rates.inter[0]) + np.int64(frame.rates.y_mode[mode])
        _set_kind(room, count, mode, INTRA_FRAME, 0, 0, rate)
        room.costs[count] = (satd << SATD_SHIFT) + rate * weight
        count += 1
    return count


class VectorModeRates(NamedTuple):
    """Rates of the vector modes of one macroblock, by its neighbours."""

    zero: int
    nearest: int
    near: int
    new: int
    split: int


@part_kernel
def vector_mode_rates(rates, near):
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


@part_kernel
def screen_predicted(frame, mb_row, mb_col, index, near, modes, room, count):
    """Add a reference's predicted vectors, zero included; gives the number of candidates."""
    y, x = BORDER + 16 * mb_row, BORDER + 16 * mb_col
    weight = satd_weight(frame, mb_row, mb_col)
    reference = frame.usable[index]
    more = np.int64(frame.rates.reference[reference])
    _set_kind(room, count, ZEROMV, reference, 0, 0, more + modes.zero)
    first = count
    count += 1
    if near.nearest_row != 0 or near.nearest_column != 0:
        rate = more + modes.nearest
        _set_kind(room, count, NEARESTMV, reference, near.nearest_row, near.nearest_column, rate)
        count += 1
    if near.near_row != 0 or near.near_column != 0:
        rate = more + modes.near
        _set_kind(room, count, NEARMV, reference, near.near_row, near.near_column, rate)
        count += 1
    hint = frame.hints[index, mb_row, mb_col]
    v_row, v_column = np.int64(hint[0]), np.int64(hint[1])
    height, width = frame.source.y.shape
    window = search_window(height, width, y, x, near.best_row, near.best_column)
    if (v_row != 0 or v_column != 0) and is_inside(window, v_row, v_column):
        rate = more + modes.new
        rate += vector_rate(frame.rates.vector, v_row, v_column, near.best_row, near.best_column)
        _set_kind(room, count, NEWMV, reference, v_row, v_column, rate)
        count += 1
    for i in range(first, count):
        satd = np.int64(
            measure_16x16(
                frame.source.y,
                frame.planes[reference - 1],
                y,
                x,
                room.kinds[i, ROW],
                room.kinds[i, COLUMN],
            )
        )
        room.costs[i] = (satd << SATD_SHIFT) + room.kinds[i, RATE] * weight
    return count


@part_kernel
def is_worth_searching(frame, index, best, predicted_end, room):
    """Whether a reference's predicted vectors are not far worse than the best of all references."""
    for i in range(predicted_end):
        near_best = (room.costs[i] << 8) <= best * frame.limits.reference_margin
        if near_best and room.kinds[i, REFERENCE] == frame.usable[index]:
            return True
    return index == 0


@part_kernel
def screen_new(frame, macroblocks, mb_row, mb_col, index, near, modes, room, count):
    """Add the vector that a search in a reference finds; gives the number of candidates."""
    reference = frame.usable[index]
    weight = satd_weight(frame, mb_row, mb_col)
    target = Target(
        frame.source.y,
        frame.planes[reference - 1],
        BORDER + 16 * mb_row,
        BORDER + 16 * mb_col,
        near.best_row,
        near.best_column,
        frame.rates.vector,
        weight,
    )
    starts = _collect_starts(frame, macroblocks, mb_row, mb_col, index, near, room.starts)
    leap = frame.limits.leap * weight if index == 0 else FAR
    cost = search_16x16(target, room.starts, starts, leap, room.found)
    v_row, v_column = room.found[0], room.found[1]
    rate = np.int64(frame.rates.reference[reference]) + modes.new
    room.costs[count] = cost + rate * weight
    rate += vector_rate(frame.rates.vector, v_row, v_column, near.best_row, near.best_column)
    _set_kind(room, count, NEWMV, reference, v_row, v_column, rate)
    return count + 1


@part_kernel
def _collect_starts(frame, macroblocks, mb_row, mb_col, index, near, starts):
    """Vectors from which a search starts: zero, predicted ones, hints, the neighbours'; gives their number."""
    starts[0, 0] = starts[0, 1] = 0
    starts[1, 0], starts[1, 1] = near.best_row, near.best_column
    starts[2, 0], starts[2, 1] = near.nearest_row, near.nearest_column
    starts[3, 0], starts[3, 1] = near.near_row, near.near_column
    hint = frame.hints[index, mb_row, mb_col]
    starts[4, 0], starts[4, 1] = np.int64(hint[0]), np.int64(hint[1])
    count = 5
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


@part_kernel
def take_least(costs, count):
    """The candidate of least screening cost, which is struck off."""
    best = np.int64(0)
    for i in range(1, count):
        if costs[i] < costs[best]:
            best = i
    cost = costs[best]
    costs[best] = FAR
    return best, cost
