"""Coefficient tokens (RFC 6386 chapter 13): read, written, counted.

One traversal serves writing and counting: it calls `emit(sink, index, probability, bit)` for each boolean, `index` being
the place among the 1056 coefficient probabilities, or -1 for booleans of fixed probability.
"""

from __future__ import annotations

import numpy as np

from codec.bool_coder import (
    flush_writer,
    load_window,
    ran_out,
    read_bool,
    reset_writer,
    store_window,
    write_bool,
)
from codec.frame import B_PRED, SPLITMV
from codec.kernel import allocating_kernel, inline_kernel, kernel
from codec.tables import (
    COEFF_BANDS,
    DCT_CAT1_PROBS,
    DCT_CAT2_PROBS,
    DCT_CAT3_PROBS,
    DCT_CAT4_PROBS,
    DCT_CAT5_PROBS,
    DCT_CAT6_PROBS,
    ZIGZAG,
)

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

_CATEGORY_PROBABILITIES = (
    DCT_CAT1_PROBS,
    DCT_CAT2_PROBS,
    DCT_CAT3_PROBS,
    DCT_CAT4_PROBS,
    DCT_CAT5_PROBS,
    DCT_CAT6_PROBS,
)
CATEGORY_BITS = np.array([len(p) for p in _CATEGORY_PROBABILITIES], np.uint8)
CATEGORY_BASE = np.array([5, 7, 11, 19, 35, 67], np.uint8)
CATEGORY_PROBABILITIES = np.zeros((6, 11), np.uint8)
for _row, _probabilities in zip(CATEGORY_PROBABILITIES, _CATEGORY_PROBABILITIES, strict=True):
    _row[: len(_probabilities)] = _probabilities
LARGEST_LEVEL = 67 + 2047


# Reading -----------------------------------------------------------------------------------------------------------


@inline_kernel
def _read_extra(data, window, category):  # type: ignore[no-untyped-def]
    """A value of category 1..6 (0..5 here): base plus extra bits (section 13.2)."""
    extra = np.int64(0)
    for i in range(CATEGORY_BITS[category]):
        window, bit = read_bool(data, window, CATEGORY_PROBABILITIES[category, i])
        extra = (extra << 1) | bit
    return window, extra + CATEGORY_BASE[category]


@inline_kernel
def _read_large_value(data, window, probabilities, at):  # type: ignore[no-untyped-def]
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


@inline_kernel
def read_block(data, window, probabilities, block_type, context, first, levels, offset):  # type: ignore[no-untyped-def]
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


@inline_kernel
def has_y2(y_mode):  # type: ignore[no-untyped-def]
    """Whether macroblocks of this mode code the luma DCs in a Y2 block."""
    return y_mode != B_PRED and y_mode != SPLITMV


@inline_kernel
def _clear_contexts(above, left, with_y2):  # type: ignore[no-untyped-def]
    """A macroblock without coefficients leaves zero contexts; the one of Y2 stays if it has no Y2 (section 13.3)."""
    for i in range(CONTEXTS - 1):
        above[i] = 0
        left[i] = 0
    if with_y2:
        above[CONTEXTS - 1] = 0
        left[CONTEXTS - 1] = 0


@kernel
def _read_blocks(data, window, probabilities, with_y2, above, left, levels, eobs):  # type: ignore[no-untyped-def]
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


@kernel
def read_tokens_row(data, window, probabilities, skip, y_mode, above, left, levels, eobs, coded):  # type: ignore[no-untyped-def]
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


@allocating_kernel
def read_tokens(data, windows, probabilities, macroblocks):  # type: ignore[no-untyped-def]
    """Read all tokens of a frame into fresh macroblocks; windows is (P, 5) int64, one for each partition."""
    rows, columns = macroblocks.y_mode.shape
    levels = macroblocks.coefficients.reshape(rows, columns, 400)
    above = np.zeros((columns, CONTEXTS), np.uint8)
    left = np.zeros(CONTEXTS, np.uint8)
    for row in range(rows):
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


# Ends of blocks ----------------------------------------------------------------------------------------------------


@inline_kernel
def end_of_block(levels, first):  # type: ignore[no-untyped-def]
    """Position after the last level that is not zero, from `first` on; 0 if there is none. levels is (16,) int16."""
    for position in range(15, first - 1, -1):
        if levels[ZIGZAG[position]] != 0:
            return position + 1
    return 0


@kernel
def find_ends(macroblocks):  # type: ignore[no-untyped-def]
    """Fill eobs and coded from the levels, as an encoder does that never codes trailing zeros.

    Levels of a Y2 block in macroblocks without one, and of the luma DCs in macroblocks with one, do not count.
    """
    rows, columns = macroblocks.y_mode.shape
    for row in range(rows):
        for column in range(columns):
            with_y2 = has_y2(macroblocks.y_mode[row, column])
            eobs = macroblocks.eobs[row, column]
            coded = 0
            for block in range(25):
                first = 1 if with_y2 and block < 16 else 0
                if block == Y2_BLOCK and not with_y2:
                    eobs[block] = 0
                else:
                    eobs[block] = end_of_block(macroblocks.coefficients[row, column, block], first)
                coded |= eobs[block]
            macroblocks.coded[row, column] = coded > 0


# Writing and counting ----------------------------------------------------------------------------------------------


@inline_kernel
def write_emit(sink, index, probability, bit):  # type: ignore[no-untyped-def]
    """Write a boolean; sink is (state, out) of a writer."""
    write_bool(sink[0], sink[1], np.int64(probability), bit)


@inline_kernel
def count_emit(sink, index, probability, bit):  # type: ignore[no-untyped-def]
    """Count a boolean; sink is (N, 2) int64."""
    if index >= 0:
        sink[index, bit] += 1


@inline_kernel
def _visit_extra(emit, sink, category, value):  # type: ignore[no-untyped-def]
    extra = value - CATEGORY_BASE[category]
    bits = np.int64(CATEGORY_BITS[category])
    for i in range(bits):
        emit(sink, -1, CATEGORY_PROBABILITIES[category, i], (extra >> (bits - 1 - i)) & 1)


@inline_kernel
def _visit_large_value(emit, sink, probabilities, at, value):  # type: ignore[no-untyped-def]
    """A value of two or more."""
    emit(sink, at + 3, probabilities[at + 3], 1 if value > 4 else 0)
    if value <= 4:
        emit(sink, at + 4, probabilities[at + 4], 1 if value > 2 else 0)
        if value > 2:
            emit(sink, at + 5, probabilities[at + 5], value - 3)
        return
    category = 0
    while category < 5 and value >= CATEGORY_BASE[category + 1]:
        category += 1
    emit(sink, at + 6, probabilities[at + 6], 1 if category > 1 else 0)
    if category <= 1:
        emit(sink, at + 7, probabilities[at + 7], category)
    else:
        high = (category - 2) >> 1
        emit(sink, at + 8, probabilities[at + 8], high)
        emit(sink, at + 9 + high, probabilities[at + 9 + high], category & 1)
    _visit_extra(emit, sink, category, value)


@inline_kernel
def visit_block(emit, sink, probabilities, block_type, context, first, end, levels):  # type: ignore[no-untyped-def]
    """Emit one block's tokens: levels (16,) int16 in raster order, `end` 0 for none, else past the last token."""
    at = block_type + BAND_OFFSETS[first] + 11 * context
    after_zero = False
    for position in range(first, end):
        level = np.int64(levels[ZIGZAG[position]])
        if not after_zero:
            emit(sink, at, probabilities[at], 1)
        value = abs(level)
        emit(sink, at + 1, probabilities[at + 1], 1 if value else 0)
        after_zero = value == 0
        if value == 0:
            at = block_type + BAND_OFFSETS[position + 1]
            continue
        emit(sink, at + 2, probabilities[at + 2], 1 if value > 1 else 0)
        if value > 1:
            _visit_large_value(emit, sink, probabilities, at, value)
        emit(sink, -1, 128, 1 if level < 0 else 0)
        at = block_type + BAND_OFFSETS[position + 1] + (22 if value > 1 else 11)
    if end < 16:
        emit(sink, at, probabilities[at], 0)


@inline_kernel
def _visit_row(emit, sink, probabilities, skip, y_mode, above, left, levels, eobs):  # type: ignore[no-untyped-def]
    """Emit the tokens of one row; levels is (C, 25, 16) int16.

    Blocks end after their last level that is not zero, except those whose eob is 16: these run to the end, so
    that frames with trailing zeros, which the loop filter tells apart, come out as they went in.
    """
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
            visit_block(
                emit, sink, probabilities, block_type, context, start, end, levels[column, block]
            )
            above[column, over] = left[beside] = 1 if end > 0 else 0


@allocating_kernel
def write_tokens(probabilities, macroblocks, states, outs):  # type: ignore[no-untyped-def]
    """Write all tokens of a frame into P partitions: states (P, 4) int64, outs (P, capacity) uint8."""
    rows, columns = macroblocks.y_mode.shape
    above = np.zeros((columns, CONTEXTS), np.uint8)
    left = np.zeros(CONTEXTS, np.uint8)
    for partition in range(len(states)):
        reset_writer(states[partition])
    for row in range(rows):
        partition = row % len(states)
        _visit_row(
            write_emit,
            (states[partition], outs[partition]),
            probabilities,
            macroblocks.skip[row],
            macroblocks.y_mode[row],
            above,
            left,
            macroblocks.coefficients[row],
            macroblocks.eobs[row],
        )
    for partition in range(len(states)):
        flush_writer(states[partition], outs[partition])


@allocating_kernel
def count_tokens(probabilities, macroblocks, counts):  # type: ignore[no-untyped-def]
    """Add up how often each boolean of the token trees is 0 and 1: counts (1056, 2) int64."""
    rows, columns = macroblocks.y_mode.shape
    above = np.zeros((columns, CONTEXTS), np.uint8)
    left = np.zeros(CONTEXTS, np.uint8)
    for row in range(rows):
        _visit_row(
            count_emit,
            counts,
            probabilities,
            macroblocks.skip[row],
            macroblocks.y_mode[row],
            above,
            left,
            macroblocks.coefficients[row],
            macroblocks.eobs[row],
        )
