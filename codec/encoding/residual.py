"""The residue of one macroblock: transformed, quantized for the least rate-distortion cost, and reconstructed.

The macroblock's prediction stands in the picture under construction; `code_macroblock` writes its levels, turns the
prediction into what a decoder will show, and keeps the contexts of the tokens. B_PRED macroblocks are predicted here
too, since each subblock leans on the ones before it.

Levels are chosen by a trellis: a shortest path over the positions of a block whose nodes are the contexts (the class of
the token before), with the true rates of the tokens, and which may end the block anywhere.
"""

from __future__ import annotations

from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from codec import simd
from codec.checks import check_number
from codec.encoding.forward_transform import (
    forward_dct_2x2,
    forward_dct_block,
    forward_dct_row,
    forward_wht,
)
from codec.encoding.rate_distortion import (
    DISTORTION_SHIFT,
    LEVELS,
    MAX_LEVEL,
    NEVER,
    position_token_rates,
    rate_multiplier,
)
from codec.frame import B_PRED, BORDER, INTRA_FRAME, Picture
from codec.kernel import inline_kernel, kernel, part_kernel
from codec.predict_intra import extend_above_right, predict_subblock
from codec.quantize import UV_AC, UV_DC, Y1_AC, Y1_DC, Y2_AC, Y2_DC
from codec.tables import DCT_EOB, ZIGZAG
from codec.tokens import BLOCK_ABOVE, BLOCK_LEFT, CONTEXTS, Y2_BLOCK, has_y2
from codec.transform import (
    add_chroma_residue,
    add_residue,
    inverse_dct_add,
    inverse_wht,
)

Y_AFTER_Y2, Y2, CHROMA, Y_WITH_DC = range(4)
"""Block types, as they index the coefficient probabilities (section 13.3)."""

DISTORTION_WEIGHTS = (4, 1, 4, 4)
"""Squared pixel errors x 16 in a squared error of a coefficient, by block type."""

_TOKEN = LEVELS.token
_LEVEL_RATE = LEVELS.rate
_SIGN_RATE = 256
_INFINITE = np.int64(1) << 60


_EVERY_CONTEXT = 3

MASKS, MASK_SHIFT = 32, 4
"""Steps of the masking factor for which there are thresholds: a factor's is this far shifted, those beyond have the last."""

HEAVIEST = 100.0


class Tuning(NamedTuple):
    """What the residual coder weighs, found by measurement (benchmarks/rebase_rd.py)."""

    rate_weight: float = 1.0  # of rates against distortions, 1: libvpx's
    chroma_weight: float = 1.0  # of chroma's distortion against luma's
    intra_weight: float = 1.0  # of rates in intra macroblocks (libvpx: 9/16)
    dead_zone: float = 0.5  # blocks without a coefficient of so many steps are not looked at

    def check(self) -> None:
        """Raises ValueError for what is no weight."""
        for name, value in self._asdict().items():
            check_number(f"{name} of a tuning", value, 0, HEAVIEST)


DEFAULT_TUNING = Tuning()


class ResidualCoder(NamedTuple):
    """What the residual coder needs to know of a frame; arrays of segments and block types come first."""

    steps: NDArray[np.int16]  # (4 segments, 4 block types, 16)
    dead_zones: NDArray[np.int16]  # (4, 4, 16) least magnitude that may become a level
    # (4, MASKS, 4, 4, 16) least magnitude that may be worth a level: by mask and block type; by the block's context, then
    # the least of the three
    thresholds: NDArray[np.int16]
    multipliers: NDArray[np.int64]  # (4 segments, 2) rate multiplier of inter and intra macroblocks
    # (4 block types,) distortion of a squared coefficient error, shifted
    weights: NDArray[np.int64]
    token_rates: NDArray[np.int32]  # (4, 16, 3, 12)
    skip_rates: NDArray[np.int32]  # (2,) rates of mb_skip_coeff
    skip_enabled: bool
    masking: NDArray[np.int32]  # (R, C) factor of the rate multiplier, x 256

    def with_rates(self, token_rates: NDArray[np.int32], skip_rates: NDArray[np.int32]) -> Self:
        """The coder under other rates, from which the thresholds follow: they are those of these steps, multipliers and this
        masking alone, and stand only where that has factors."""
        thresholds = np.empty((4, MASKS, 4, 4, 16), np.int16)
        coder = self._replace(token_rates=token_rates, skip_rates=skip_rates, thresholds=thresholds)
        lowest, highest = (
            min(int(factor) >> MASK_SHIFT, MASKS - 1)
            for factor in (self.masking.min(), self.masking.max())
        )
        masks = np.arange(lowest, highest + 1)
        alike = (self.steps == self.steps[0]).all() and (
            self.multipliers == self.multipliers[0]
        ).all()
        room = np.empty((3, 16), np.int64)
        _fill_thresholds(coder, masks, 1 if alike else 4, room, thresholds)
        if alike:
            thresholds[1:] = thresholds[0]
        return coder


class ResidualBuffers(NamedTuple):
    """Room for one macroblock's work; contents mean nothing between calls."""

    coefficients: NDArray[np.int16]  # (25, 16) before quantization
    dequantized: NDArray[np.int16]  # (25, 16)
    origin: NDArray[np.int64]  # (17, 3) context from which the best path comes
    choice: NDArray[np.int64]  # (17, 3) magnitude that it takes there


class TokenContexts(NamedTuple):
    """Which neighbouring blocks hold tokens (section 13.3): `left` is cleared by the caller at each row's start."""

    above: NDArray[np.uint8]  # (C, 9)
    left: NDArray[np.uint8]  # (9,)


class Coding(NamedTuple):
    """One macroblock under work: where it is, how its bits weigh, and where that is written which it becomes."""

    coder: ResidualCoder
    source: Picture
    picture: Picture  # holds its prediction, at its place
    mb_row: int
    mb_col: int
    segment: int
    mask: int  # see MASKS
    multiplier: int  # of rates
    contexts: TokenContexts
    levels: NDArray[np.int16]  # (25, 16), zero before
    eobs: NDArray[np.uint8]  # (25,)
    buffers: ResidualBuffers


def new_contexts(columns: int) -> TokenContexts:
    """Contexts at the start of a frame."""
    return TokenContexts(np.zeros((columns, CONTEXTS), np.uint8), np.zeros(CONTEXTS, np.uint8))


def new_buffers() -> ResidualBuffers:
    """Buffers for `code_macroblock`."""
    return ResidualBuffers(
        np.zeros((25, 16), np.int16),
        np.zeros((25, 16), np.int16),
        np.zeros((17, 3), np.int64),
        np.zeros((17, 3), np.int64),
    )


def new_residual_coder(
    quantizers: NDArray[np.int16],
    coefficient_probabilities: NDArray[np.uint8],
    skip_rates: NDArray[np.int32],
    masking: NDArray[np.int32],
    *,
    skip_enabled: bool = True,
    tuning: Tuning = DEFAULT_TUNING,
) -> ResidualCoder:
    """A coder for a frame.

    quantizers (4, 6) as `segment_quantizers` gives them; coefficient_probabilities (4, 8, 3, 11) are those under which
    tokens are costed; skip_rates (2,) bits x 256; masking (R, C) factors of the rate multiplier x 256.
    """
    steps = np.empty((4, 4, 16), np.int16)
    for block_type, (dc, ac) in enumerate(
        ((Y1_DC, Y1_AC), (Y2_DC, Y2_AC), (UV_DC, UV_AC), (Y1_DC, Y1_AC))
    ):
        steps[:, block_type] = quantizers[:, ac, np.newaxis]
        steps[:, block_type, 0] = quantizers[:, dc]
    most = np.iinfo(np.int16).max
    dead_zones = np.clip(np.ceil(steps * tuning.dead_zone), 1, most).astype(np.int16)
    dead_zones[:, Y_AFTER_Y2, 0] = most
    weight = tuning.rate_weight
    multipliers = [
        (rate_multiplier(step, weight), rate_multiplier(step, weight * tuning.intra_weight))
        for step in quantizers[:, Y1_DC]
    ]
    chroma = np.array((1, 1, tuning.chroma_weight, 1))
    weights = np.rint(np.array(DISTORTION_WEIGHTS) * chroma * (1 << DISTORTION_SHIFT))
    rates = position_token_rates(coefficient_probabilities)
    coder = ResidualCoder(
        steps,
        dead_zones,
        np.empty((4, MASKS, 4, 4, 16), np.int16),
        np.array(multipliers, np.int64),
        weights.astype(np.int64),
        rates,
        skip_rates,
        skip_enabled,
        masking,
    )
    return coder.with_rates(rates, skip_rates)


# What is worth a level -------------------------------------------------------------------------------------------
#
# A block stays empty where no coefficient can pay for a level. With steps s, magnitudes a < 1.5 s can become 1 at most, which
# gains s (2 a - s). Let Z, N and E be the least rates of a zero, of another token and of an end at a position. If no gain is
# above N - Z, none pays for itself before the last position that has a level; if the gain there is not above N + E and all Z
# before, less the end of an empty block, the empty block costs no more.


@kernel
def _fill_thresholds(coder, masks, segments, worths, thresholds):
    """Fill thresholds of the first so many segments, those of `masks` (N,) int64, each for the least factor it stands for.

    worths (3, 16) int64 is room to work in.
    """
    for block_type in range(4):
        first = 1 if block_type == Y_AFTER_Y2 else 0
        _fill_worths(coder.token_rates[block_type], first, worths)
        for segment in range(segments):
            multiplier = min(coder.multipliers[segment, 0], coder.multipliers[segment, 1])
            for i in range(len(masks)):
                mask = np.int64(masks[i])
                _fill_block_thresholds(
                    coder.steps[segment, block_type],
                    coder.dead_zones[segment, block_type],
                    worths,
                    first,
                    max(coder.weights[block_type], np.int64(1)),
                    (multiplier * (mask << MASK_SHIFT)) >> 8,
                    thresholds[segment, mask, block_type],
                )


@kernel
def _fill_worths(rates, first, worths):
    """Fill worths (3, 16) by the block's context and position: the rate up to which a gain pays for no level there."""
    for context in range(3):
        before = np.int64(0)  # rates of all zeros so far
        empty = np.int64(rates[first, context, DCT_EOB])
        for position in range(first, 16):
            zero, level, end = _least_rates(rates, position, context if position == first else -1)
            worths[context, position] = min(level - zero, before + level + end - empty)
            before += zero


@kernel
def _fill_block_thresholds(steps, dead_zones, worths, first, weight, multiplier, thresholds):
    """Fill thresholds (4, 16) of one block type under one rate multiplier."""
    widest = True  # no dead zone reaches beyond what could be a level at all
    for position in range(first, 16):
        raster = ZIGZAG[position]
        widest = widest and 2 * np.int64(dead_zones[raster]) <= np.int64(steps[raster]) + 1
    for position in range(16):
        raster = ZIGZAG[position]
        dead, step = np.int64(dead_zones[raster]), np.int64(steps[raster])
        every = np.int64(1 << 15) - 1
        for context in range(3):
            least = dead
            if widest and position >= first and worths[context, position] > 0:
                gain = (worths[context, position] * multiplier) // (weight * step)
                least = max(dead, min((gain + step) >> 1, (3 * step - 1) >> 1) + 1)
            thresholds[context, raster] = least
            every = min(every, least)
        thresholds[_EVERY_CONTEXT, raster] = every


@inline_kernel
def _least_rates(rates, position, context):
    """Least rates at a position, in one context or (-1) in any: of a zero, a level, and an end after that."""
    zero = level = end = np.int64(NEVER)
    for other in range(3):
        if context >= 0 and other != context:
            continue
        zero = min(zero, np.int64(rates[position, other, 0]))
        for token in range(1, DCT_EOB):
            level = min(level, np.int64(rates[position, other, token]))
    for other in range(3):
        if position < 15:
            end = min(end, np.int64(rates[position + 1, other, DCT_EOB]))
        else:
            end = np.int64(0)
    return zero, level + _SIGN_RATE, end


@inline_kernel
def mask_of(coder, mb_row, mb_col):
    """Which thresholds a macroblock has."""
    return min(np.int64(coder.masking[mb_row, mb_col]) >> MASK_SHIFT, np.int64(MASKS - 1))


# One block -------------------------------------------------------------------------------------------------------


@inline_kernel
def _cheapest(c0, c1, c2, rates, token, multiplier):
    """The context from which this token comes cheapest, and the cost then; rates is (3, 12)."""
    best = c0 + np.int64(rates[0, token]) * multiplier
    origin = 0
    other = c1 + np.int64(rates[1, token]) * multiplier
    if other < best:
        best, origin = other, 1
    other = c2 + np.int64(rates[2, token]) * multiplier
    if other < best:
        best, origin = other, 2
    return best, origin


@kernel
def optimize_block(
    coefficients, steps, rates, context, first, weight, multiplier, levels, origins, choices
):
    """Fill levels (16,) int16, zero before, with those of least cost; gives the end of the block and that cost.

    coefficients and steps are (16,) int16 in raster order, rates (16, 3, 12) of this block type; `weight` is the
    cost of a squared coefficient error. Costs leave out the energy of the coefficients: an empty block costs its
    end-of-block token. The end is 0 for an empty block.
    """
    last = first - 1
    for position in range(15, first - 1, -1):
        raster = ZIGZAG[position]
        if 2 * abs(np.int64(coefficients[raster])) >= np.int64(steps[raster]):
            last = position
            break
    c0 = c1 = c2 = _INFINITE
    if context == 0:
        c0 = np.int64(0)
    elif context == 1:
        c1 = np.int64(0)
    else:
        c2 = np.int64(0)
    best_cost = np.int64(rates[first, context, DCT_EOB]) * multiplier
    best_end, best_context = first, 0
    for position in range(first, last + 1):
        raster = ZIGZAG[position]
        at = rates[position]
        magnitude = abs(np.int64(coefficients[raster]))
        step = np.int64(steps[raster])
        n0, origin = _cheapest(c0, c1, c2, at, 0, multiplier)
        origins[position, 0] = origin
        n1 = n2 = _INFINITE
        nearest = min((2 * magnitude + step) // (2 * step), np.int64(MAX_LEVEL))
        for value in range(nearest, max(nearest - 2, np.int64(0)), -1):
            error = value * step - magnitude
            path, origin = _cheapest(c0, c1, c2, at, _TOKEN[value], multiplier)
            gained = (error * error - magnitude * magnitude) * weight
            cost = path + np.int64(_LEVEL_RATE[value]) * multiplier + gained
            if value == 1:
                n1 = cost
                origins[position, 1] = origin
            elif cost < n2:
                n2 = cost
                origins[position, 2] = origin
                choices[position, 2] = value
        c0, c1, c2 = n0, n1, n2
        end_cost, end_context = c1, 1
        if position < 15:
            end_cost += np.int64(rates[position + 1, 1, DCT_EOB]) * multiplier
            other = c2 + np.int64(rates[position + 1, 2, DCT_EOB]) * multiplier
        else:
            other = c2
        if other < end_cost:
            end_cost, end_context = other, 2
        if end_cost < best_cost:
            best_cost, best_end, best_context = end_cost, position + 1, end_context
    node = best_context
    for position in range(best_end - 1, first - 1, -1):
        raster = ZIGZAG[position]
        value = choices[position, 2] if node == 2 else node
        levels[raster] = -value if coefficients[raster] < 0 else value
        node = origins[position, node]
    return (best_end if best_end > first else 0), best_cost


@inline_kernel
def code_block(at, block_type, block, first):
    """Choose the levels of one transformed block, dequantize them, and keep its context; gives its cost."""
    coder, buffers = at.coder, at.buffers
    above, left = at.contexts.above[at.mb_col], at.contexts.left
    over, beside = BLOCK_ABOVE[block], BLOCK_LEFT[block]
    context = np.int64(above[over]) + np.int64(left[beside])
    rates = coder.token_rates[block_type]
    magnitudes = simd.absolute(simd.load16(buffers.coefficients, block, 0))
    thresholds = coder.thresholds[at.segment, at.mask, block_type]
    if simd.any_lane(magnitudes >= simd.load16(thresholds, context, 0)):
        end, cost = optimize_block(
            buffers.coefficients[block],
            coder.steps[at.segment, block_type],
            rates,
            context,
            first,
            coder.weights[block_type],
            at.multiplier,
            at.levels[block],
            buffers.origin,
            buffers.choice,
        )
    else:
        end, cost = 0, np.int64(rates[first, context, DCT_EOB]) * at.multiplier
    steps = simd.load16(coder.steps, at.segment, block_type, 0)
    simd.store(simd.load16(at.levels, block, 0) * steps, buffers.dequantized, block, 0)
    at.eobs[block] = end
    above[over] = left[beside] = 1 if end > 0 else 0
    return cost


# One macroblock --------------------------------------------------------------------------------------------------


@kernel
def _code_subblocks(at, sub_modes):
    """Predict, code and reconstruct the luma of a B_PRED macroblock, one subblock after another; gives its cost."""
    cost = np.int64(0)
    top = BORDER + 16 * at.mb_row
    left = BORDER + 16 * at.mb_col
    plane = at.picture.y
    extend_above_right(plane, at.mb_row, at.mb_col)
    for block in range(16):
        y = top + 4 * (block >> 2)
        x = left + 4 * (block & 3)
        right_y = top - 1 if block & 3 == 3 else y - 1
        predict_subblock(plane, y, x, sub_modes[block], right_y, plane, y, x)
        forward_dct_block(at.source.y, plane, y, x, at.buffers.coefficients, block)
        cost += code_block(at, Y_WITH_DC, block, 0)
        if at.eobs[block] > 0:
            inverse_dct_add(at.buffers.dequantized, block, plane, y, x)
    return cost


@inline_kernel
def _transform_luma(at, with_y2):
    y = BORDER + 16 * at.mb_row
    x = BORDER + 16 * at.mb_col
    for block in range(0, 16, 4):
        forward_dct_row(at.source.y, at.picture.y, y + block, x, at.buffers.coefficients, block)
    if with_y2:
        forward_wht(at.buffers.coefficients)


@inline_kernel
def _transform_chroma(at):
    y = BORDER + 8 * at.mb_row
    x = BORDER + 8 * at.mb_col
    forward_dct_2x2(at.source.u, at.picture.u, y, x, at.buffers.coefficients, 16)
    forward_dct_2x2(at.source.v, at.picture.v, y, x, at.buffers.coefficients, 20)


@inline_kernel
def _have_levels(at, block_type, begin, end):
    """Mask of places at which some of the transformed blocks begin .. end - 1 may have a level."""
    thresholds = at.coder.thresholds[at.segment, at.mask, block_type]
    least = simd.load16(thresholds, _EVERY_CONTEXT, 0)
    found = simd.absolute(simd.load16(at.buffers.coefficients, begin, 0)) >= least
    for block in range(begin + 1, end):
        found = found | (simd.absolute(simd.load16(at.buffers.coefficients, block, 0)) >= least)
    return found


@inline_kernel
def _leave_empty(at, block_type, begin, end, first):
    """What `code_block` does to blocks without levels, begin .. end - 1; gives their cost."""
    above, left = at.contexts.above[at.mb_col], at.contexts.left
    rates = at.coder.token_rates[block_type, first]
    zero = simd.i16x16(0)
    rate = np.int64(0)
    for block in range(begin, end):
        over, beside = BLOCK_ABOVE[block], BLOCK_LEFT[block]
        rate += np.int64(rates[np.int64(above[over]) + np.int64(left[beside]), DCT_EOB])
        above[over] = left[beside] = 0
        at.eobs[block] = 0
        simd.store(zero, at.buffers.dequantized, block, 0)
    return rate * at.multiplier


@kernel
def _code_luma_blocks(at, with_y2):
    """Code transformed luma, Y2 first; gives its cost."""
    cost = np.int64(0)
    first, block_type = 0, Y_WITH_DC
    if with_y2:
        first, block_type = 1, Y_AFTER_Y2
        cost += code_block(at, Y2, Y2_BLOCK, 0)
    if simd.any_lane(_have_levels(at, block_type, 0, 16)):
        for block in range(16):
            cost += code_block(at, block_type, block, first)
    else:
        cost += _leave_empty(at, block_type, 0, 16, first)
    if with_y2:
        inverse_wht(at.buffers.dequantized)
    return cost


@kernel
def _code_chroma_blocks(at):
    if not simd.any_lane(_have_levels(at, CHROMA, 16, 24)):
        return _leave_empty(at, CHROMA, 16, 24, 0)
    cost = np.int64(0)
    for block in range(16, 24):
        cost += code_block(at, CHROMA, block, 0)
    return cost


@kernel
def code_luma(at, with_y2):
    """Transform and code the luma of a predicted macroblock; gives its cost."""
    _transform_luma(at, with_y2)
    return _code_luma_blocks(at, with_y2)


@kernel
def code_chroma(at):
    """Transform and code the chroma of a predicted macroblock; gives its cost."""
    _transform_chroma(at)
    return _code_chroma_blocks(at)


@kernel
def _may_have_levels(at, with_y2):
    """Whether any coefficient of a transformed macroblock is large enough to become a level."""
    found = _have_levels(at, Y_AFTER_Y2 if with_y2 else Y_WITH_DC, 0, 16)
    found = found | _have_levels(at, CHROMA, 16, 24)
    if with_y2:
        found = found | _have_levels(at, Y2, Y2_BLOCK, Y2_BLOCK + 1)
    return simd.any_lane(found)


@inline_kernel
def _drop_residue(levels, eobs, contexts, mb_col, with_y2):
    """Leave a macroblock without tokens."""
    zero = simd.i16x16(0)
    for block in range(25):
        simd.store(zero, levels, block, 0)
        eobs[block] = 0
    kinds = CONTEXTS if with_y2 else CONTEXTS - 1
    for i in range(kinds):
        contexts.above[mb_col, i] = 0
        contexts.left[i] = 0


@kernel
def code_macroblock(coder, source, mb_row, mb_col, macroblocks, contexts, picture, buffers):
    """Code the residue of a macroblock and reconstruct it in place.

    source and picture are Pictures; the picture holds the prediction of luma (not needed of B_PRED) and chroma. Of
    macroblocks the segment, y_mode, reference and sub_modes are read, and coefficients, eobs, coded and skip written.
    """
    y_mode = macroblocks.y_mode[mb_row, mb_col]
    with_y2 = has_y2(y_mode)
    segment = np.int64(macroblocks.segment[mb_row, mb_col])
    intra = 1 if macroblocks.reference[mb_row, mb_col] == INTRA_FRAME else 0
    multiplier = (coder.multipliers[segment, intra] * coder.masking[mb_row, mb_col]) >> 8
    levels = macroblocks.coefficients[mb_row, mb_col]
    eobs = macroblocks.eobs[mb_row, mb_col]
    zero = simd.i16x16(0)
    for block in range(25):
        simd.store(zero, levels, block, 0)
    eobs[Y2_BLOCK] = 0
    at = Coding(
        coder,
        source,
        picture,
        mb_row,
        mb_col,
        segment,
        mask_of(coder, mb_row, mb_col),
        multiplier,
        contexts,
        levels,
        eobs,
        buffers,
    )
    if y_mode == B_PRED:
        cost = _code_subblocks(at, macroblocks.sub_modes[mb_row, mb_col])
        cost += code_chroma(at)
    else:
        _transform_luma(at, with_y2)
        _transform_chroma(at)
        if coder.skip_enabled and not _may_have_levels(at, with_y2):
            _drop_residue(levels, eobs, contexts, mb_col, with_y2)
            macroblocks.coded[mb_row, mb_col] = 0
            macroblocks.skip[mb_row, mb_col] = 1
            return
        cost = _code_luma_blocks(at, with_y2)
        cost += _code_chroma_blocks(at)
    coded = 0
    for block in range(25):
        coded |= eobs[block]
    if coder.skip_enabled:
        saved = (np.int64(coder.skip_rates[1]) - np.int64(coder.skip_rates[0])) * multiplier
        if coded == 0 or (y_mode != B_PRED and cost >= saved):
            coded = 0
            _drop_residue(levels, eobs, contexts, mb_col, with_y2)
    macroblocks.coded[mb_row, mb_col] = 1 if coded else 0
    macroblocks.skip[mb_row, mb_col] = 1 if coded == 0 and coder.skip_enabled else 0
    if coded:
        if y_mode == B_PRED:
            add_chroma_residue(buffers.dequantized, eobs, picture, mb_row, mb_col)
        else:
            add_residue(buffers.dequantized, eobs, picture, mb_row, mb_col)


@part_kernel
def finish_macroblock(macroblocks, mb_row, mb_col, contexts, picture, residue):
    """What `code_macroblock` leaves, of a macroblock whose levels and eobs are chosen already, and none of B_PRED.

    The picture holds its prediction, residue (25, 16) int16 its dequantized coefficients, skip whether it is better without
    them.
    """
    with_y2 = has_y2(macroblocks.y_mode[mb_row, mb_col])
    levels = macroblocks.coefficients[mb_row, mb_col]
    eobs = macroblocks.eobs[mb_row, mb_col]
    coded = 0
    for block in range(25):
        coded |= eobs[block]
    if coded == 0 or macroblocks.skip[mb_row, mb_col]:
        _drop_residue(levels, eobs, contexts, mb_col, with_y2)
        macroblocks.coded[mb_row, mb_col] = 0
        macroblocks.skip[mb_row, mb_col] = 1
        return
    macroblocks.coded[mb_row, mb_col] = 1
    for block in range(25 if with_y2 else 24):
        has_tokens = 1 if eobs[block] > 0 else 0
        contexts.above[mb_col, BLOCK_ABOVE[block]] = has_tokens
        contexts.left[BLOCK_LEFT[block]] = has_tokens
    add_residue(residue, eobs, picture, mb_row, mb_col)
