"""Coefficient tokens (RFC 6386 chapter 13): read, written, counted.

Writing and counting go by records of booleans (records.py), whose places are those of the 1056 coefficient probabilities.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from codec.bool_coder import (
    flush_writer,
    load_window,
    ran_out,
    read_bool,
    reset_writer,
    store_window,
)
from codec.frame import B_PRED, SPLITMV, Macroblocks
from codec.kernel import kernel, part_kernel
from codec.records import count_records, record, record_fixed, write_records
from codec.tables import COEFF_BANDS, DCT_CATEGORY_BASES, DCT_CATEGORY_PROBS, ZIGZAG

Y2_BLOCK = 24
CONTEXTS = 9
"""Contexts along a macroblock's edge: 4 of luma, 2 of U, 2 of V, 1 of Y2."""

# Block types (section 13.3) in units of their 8 x 3 x 11 probabilities
Y_AFTER_Y2, Y2, CHROMA, Y_WITH_DC = (np.int64(264 * i) for i in range(4))

BLOCK_ABOVE = np.array([0, 1, 2, 3] * 4 + [4, 5] * 2 + [6, 7] * 2 + [8], np.uint8)
BLOCK_LEFT = np.repeat(np.arange(8), (4, 4, 4, 4, 2, 2, 2, 2))
BLOCK_LEFT = np.append(BLOCK_LEFT, 8).astype(np.uint8)
"""Which contexts each of the 25 blocks has above it and to its left."""

BAND_OFFSETS = np.append(33 * COEFF_BANDS.astype(np.int64), 0).astype(np.uint16)
"""Offset of the probabilities of each position's band; position 16 is never read."""

CATEGORY_BITS = np.array([len(p) for p in DCT_CATEGORY_PROBS], np.uint8)
CATEGORY_BASE = np.array(DCT_CATEGORY_BASES, np.uint8)
CATEGORY_PROBABILITIES = np.zeros((6, 11), np.uint8)
for _row, _probabilities in zip(CATEGORY_PROBABILITIES, DCT_CATEGORY_PROBS, strict=True):
    _row[: len(_probabilities)] = _probabilities


# Reading -----------------------------------------------------------------------------------------------------------


@part_kernel
def _read_extra(data, window, category):
    """A value of category 1..6 (0..5 here): base plus extra bits (section 13.2)."""
    extra = np.int64(0)
    for i in range(CATEGORY_BITS[category]):
        window, bit = read_bool(data, window, CATEGORY_PROBABILITIES[category, i])
        extra = (extra << 1) | bit
    return window, extra + CATEGORY_BASE[category]


@part_kernel
def _read_large_value(data, window, probabilities, at):
    """A value of two or more, at the node of the token tree that follows ONE."""
    window, bit = read_bool(data, window, probabilities[at + 3])
    if not bit:
        window, bit = read_bool(data, window, probabilities[at + 4])
        if not bit:
            return window, np.int64(2)
        window, bit = read_bool(data, window, probabilities[at + 5])
        return window, np.int64(3 + bit)
    window, high = read_bool(data, window, probabilities[at + 6])
    if not high:
        window, low = read_bool(data, window, probabilities[at + 7])
        return _read_extra(data, window, low)
    window, high = read_bool(data, window, probabilities[at + 8])
    window, low = read_bool(data, window, probabilities[at + 9 + high])
    return _read_extra(data, window, 2 + 2 * high + low)


@part_kernel
def read_block(data, window, probabilities, block_type, context, first, levels, offset):
    """Read one block's tokens from position `first` on; gives the window and the end of block (0: no token).

    probabilities is (1056,) uint8; levels go to levels[offset : offset + 16] in raster order, zeros are not written.
    """
    position = first
    at = block_type + BAND_OFFSETS[position] + 11 * context
    window, bit = read_bool(data, window, probabilities[at])
    if not bit:
        return window, 0
    while True:
        window, bit = read_bool(data, window, probabilities[at + 1])
        position += 1
        if not bit:
            if position == 16:
                return window, 16
            at = block_type + BAND_OFFSETS[position]
            continue
        window, bit = read_bool(data, window, probabilities[at + 2])
        if bit:
            window, value = _read_large_value(data, window, probabilities, at)
            at = block_type + BAND_OFFSETS[position] + 22
        else:
            value = np.int64(1)
            at = block_type + BAND_OFFSETS[position] + 11
        window, sign = read_bool(data, window, 128)
        levels[offset + np.int64(ZIGZAG[position - 1])] = -value if sign else value
        if position == 16:
            return window, 16
        window, bit = read_bool(data, window, probabilities[at])
        if not bit:
            return window, position


@part_kernel
def has_y2(y_mode):
    """Whether macroblocks of this mode code the luma DCs in a Y2 block."""
    return y_mode != B_PRED and y_mode != SPLITMV


@part_kernel
def _clear_contexts(above, left, with_y2):
    """A macroblock without coefficients leaves zero contexts; the one of Y2 stays if it has no Y2 (section 13.3)."""
    for i in range(CONTEXTS - 1):
        above[i] = 0
        left[i] = 0
    if with_y2:
        above[CONTEXTS - 1] = 0
        left[CONTEXTS - 1] = 0


@part_kernel
def _read_blocks(data, window, probabilities, with_y2, above, left, levels, eobs):
    """Read the blocks of one macroblock; gives the window and whether there was any token."""
    coded = 0
    luma_type, first = (Y_AFTER_Y2, 1) if with_y2 else (Y_WITH_DC, 0)
    eobs[Y2_BLOCK] = 0
    for i in range(0 if with_y2 else 1, 25):
        if i == 0:
            block, block_type, start = Y2_BLOCK, Y2, 0
        elif i <= 16:
            block, block_type, start = i - 1, luma_type, first
        else:
            block, block_type, start = i - 1, CHROMA, 0
        over, beside = BLOCK_ABOVE[block], BLOCK_LEFT[block]
        context = np.int64(above[over]) + np.int64(left[beside])
        window, eob = read_block(
            data, window, probabilities, block_type, context, start, levels, 16 * block
        )
        above[over] = left[beside] = 1 if eob > 0 else 0
        eobs[block] = eob
        coded |= eob
    return window, coded > 0


@part_kernel
def read_tokens_row(data, window, probabilities, skip, y_mode, above, left, levels, eobs, coded):
    """Read the tokens of one row of C macroblocks from one partition.

    window (5,) int64 is read and updated; probabilities (1056,) uint8; skip and y_mode (C,) uint8; above (C, 9)
    and left (9,) uint8 are contexts, updated. Filled: levels (C, 400) int16, zero before; eobs (C, 25) and coded (C,)
    uint8. Where the data has run out libvpx leaves macroblocks without residue but treats them as coded; so do we, by
    a V block of 16 zeros, which `write_tokens_row` can say.
    """
    place = load_window(window)
    left[:] = 0
    for column in range(len(y_mode)):
        with_y2 = has_y2(y_mode[column])
        if skip[column]:
            _clear_contexts(above[column], left, with_y2)
            eobs[column] = 0
            coded[column] = 0
        elif ran_out(place):
            eobs[column] = 0
            eobs[column, 23] = 16
            coded[column] = 1
        else:
            place, coded[column] = _read_blocks(
                data,
                place,
                probabilities,
                with_y2,
                above[column],
                left,
                levels[column],
                eobs[column],
            )
    store_window(place, window)


@kernel
def _read_rows(data, windows, probabilities, macroblocks, levels, above, left):
    for row in range(len(macroblocks.y_mode)):
        read_tokens_row(
            data,
            windows[row % len(windows)],
            probabilities,
            macroblocks.skip[row],
            macroblocks.y_mode[row],
            above,
            left,
            levels[row],
            macroblocks.eobs[row],
            macroblocks.coded[row],
        )


def read_tokens(
    data: NDArray[np.uint8],
    windows: NDArray[np.int64],
    probabilities: NDArray[np.uint8],
    macroblocks: Macroblocks,
) -> None:
    """Read all tokens of a frame into fresh macroblocks; windows is (P, 5) int64, one for each partition."""
    rows, columns = macroblocks.y_mode.shape
    levels = macroblocks.coefficients.reshape(rows, columns, 400)
    above, left = np.zeros((columns, CONTEXTS), np.uint8), np.zeros(CONTEXTS, np.uint8)
    _read_rows(data, windows, probabilities, macroblocks, levels, above, left)


# Ends of blocks ----------------------------------------------------------------------------------------------------


@part_kernel
def end_of_block(levels, first):
    """Position after the last level that is not zero, from `first` on; 0 if there is none. levels is (16,) int16."""
    for position in range(15, first - 1, -1):
        if levels[ZIGZAG[position]] != 0:
            return position + 1
    return 0


# Writing and counting ----------------------------------------------------------------------------------------------

RECORDS_OF_A_MACROBLOCK = 400 * 24
"""Most booleans that a macroblock's tokens can take: 12 of the tree (with its end), 11 of category 6, and a sign."""


@part_kernel
def _record_extra(records, count, category, value):
    extra = value - CATEGORY_BASE[category]
    bits = np.int64(CATEGORY_BITS[category])
    for i in range(bits):
        probability = CATEGORY_PROBABILITIES[category, i]
        count = record_fixed(records, count, probability, (extra >> (bits - 1 - i)) & 1)
    return count


@part_kernel
def _record_large_value(records, count, at, value):
    """A value of two or more, at the node of the token tree that follows ONE."""
    count = record(records, count, at + 3, 1 if value > 4 else 0)
    if value <= 4:
        count = record(records, count, at + 4, 1 if value > 2 else 0)
        return record(records, count, at + 5, value - 3) if value > 2 else count
    category = 0
    while category < 5 and value >= CATEGORY_BASE[category + 1]:
        category += 1
    count = record(records, count, at + 6, 1 if category > 1 else 0)
    if category <= 1:
        count = record(records, count, at + 7, category)
    else:
        high = (category - 2) >> 1
        count = record(records, count, at + 8, high)
        count = record(records, count, at + 9 + high, category & 1)
    return _record_extra(records, count, category, value)


@part_kernel
def _record_block(records, count, block_type, context, first, end, levels):
    """One block's tokens: levels (16,) int16 in raster order, `end` 0 for none, else past the last token."""
    at = block_type + BAND_OFFSETS[first] + 11 * context
    after_zero = False
    for position in range(first, end):
        level = np.int64(levels[ZIGZAG[position]])
        if not after_zero:
            count = record(records, count, at, 1)
        value = abs(level)
        count = record(records, count, at + 1, 1 if value else 0)
        after_zero = value == 0
        if value == 0:
            at = block_type + BAND_OFFSETS[position + 1]
            continue
        count = record(records, count, at + 2, 1 if value > 1 else 0)
        if value > 1:
            count = _record_large_value(records, count, at, value)
        count = record_fixed(records, count, 128, 1 if level < 0 else 0)
        at = block_type + BAND_OFFSETS[position + 1] + (22 if value > 1 else 11)
    return record(records, count, at, 0) if end < 16 else count


@kernel
def _record_row(macroblocks, row, above, left, records):
    """Record the tokens of one row. Gives the number of records.

    Blocks end after their last level that is not zero, except those whose eob is 16: these run to the end, so
    that frames with trailing zeros, which the loop filter tells apart, come out as they went in.
    """
    skip, y_mode = macroblocks.skip[row], macroblocks.y_mode[row]
    levels, eobs = macroblocks.coefficients[row], macroblocks.eobs[row]
    count = 0
    left[:] = 0
    for column in range(len(y_mode)):
        with_y2 = has_y2(y_mode[column])
        if skip[column]:
            _clear_contexts(above[column], left, with_y2)
            continue
        luma_type, first = (Y_AFTER_Y2, 1) if with_y2 else (Y_WITH_DC, 0)
        for i in range(0 if with_y2 else 1, 25):
            if i == 0:
                block, block_type, start = Y2_BLOCK, Y2, 0
            elif i <= 16:
                block, block_type, start = i - 1, luma_type, first
            else:
                block, block_type, start = i - 1, CHROMA, 0
            over, beside = BLOCK_ABOVE[block], BLOCK_LEFT[block]
            context = np.int64(above[column, over]) + np.int64(left[beside])
            end = end_of_block(levels[column, block], start)
            if eobs[column, block] == 16:
                end = 16
            count = _record_block(
                records, count, block_type, context, start, end, levels[column, block]
            )
            above[column, over] = left[beside] = 1 if end > 0 else 0
    return count


@kernel
def _write_rows(probabilities, macroblocks, above, left, records, states, outs):
    for partition in range(len(states)):
        reset_writer(states[partition])
    for row in range(len(macroblocks.y_mode)):
        count = _record_row(macroblocks, row, above, left, records)
        partition = row % len(states)
        write_records(states[partition], outs[partition], probabilities, records, count)
    for partition in range(len(states)):
        flush_writer(states[partition], outs[partition])


@kernel
def _count_rows(macroblocks, above, left, records, counts):
    for row in range(len(macroblocks.y_mode)):
        count = _record_row(macroblocks, row, above, left, records)
        count_records(records, count, counts)


def _room(
    macroblocks: Macroblocks,
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint16]]:
    """Contexts above and to the left, and room for the records of a row."""
    columns = macroblocks.y_mode.shape[1]
    records = np.empty(RECORDS_OF_A_MACROBLOCK * columns, np.uint16)
    return np.zeros((columns, CONTEXTS), np.uint8), np.zeros(CONTEXTS, np.uint8), records


def write_tokens(
    probabilities: NDArray[np.uint8],
    macroblocks: Macroblocks,
    states: NDArray[np.int64],
    outs: NDArray[np.uint8],
) -> None:
    """Write all tokens of a frame into P partitions: states (P, 4) int64, outs (P, capacity) uint8."""
    _write_rows(probabilities, macroblocks, *_room(macroblocks), states, outs)


def count_tokens(macroblocks: Macroblocks) -> NDArray[np.int64]:
    """(1056, 2): how often each boolean of the token trees is 0 and 1."""
    counts = np.zeros((1056, 2), np.int64)
    _count_rows(macroblocks, *_room(macroblocks), counts)
    return counts


def recorded_tokens(macroblocks: Macroblocks) -> Iterator[NDArray[np.uint16]]:
    """Records of the tokens, row by row; each array is filled anew for the next."""
    above, left, records = _room(macroblocks)
    for row in range(len(macroblocks.y_mode)):
        count = _record_row(macroblocks, row, above, left, records)
        yield records[:count]
