"""What things cost: bits of tokens, modes and vectors, and how bits weigh against errors.

Rates are in bits x 256. Distortions are squared pixel errors x 16: the squared error of a Y2 coefficient as it stands,
of any other coefficient x 4 (the transforms of RFC 6386 section 14 scale squares by 4 and 16). A decision minimises
``(distortion << DISTORTION_SHIFT) + rate * rate_multiplier``.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from codec import tables
from codec.motion import IS_SHORT, LONG_BITS, LONG_WIDTH, SHORT_TREE, SIGN
from codec.state import ProbabilityTables

Rates = NDArray[np.int32]

DISTORTION_SHIFT = 12
MAX_LEVEL = 2047
NEVER = 1 << 20
"""Rate of what cannot be written."""

# Booleans and trees ----------------------------------------------------------------------------------------------


def _boolean_rates() -> Rates:
    probability = np.maximum(np.arange(256), 1) / 256
    return np.rint(-256 * np.log2(probability)).astype(np.int32)


BOOLEAN_RATES = _boolean_rates()
"""(256,) rate of a boolean that comes out as its probability says; 0 counts as 1."""


def rate_of_zero(probability: NDArray[np.uint8]) -> Rates:
    """Rate of 0 under each probability."""
    return np.asarray(BOOLEAN_RATES[probability])


def rate_of_one(probability: NDArray[np.uint8]) -> Rates:
    """Rate of 1 under each probability."""
    return np.asarray(BOOLEAN_RATES[256 - np.maximum(probability.astype(np.int64), 1)])


def tree_rates(tree: tables.Tree, probabilities: NDArray[np.uint8]) -> Rates:
    """Rates (..., values) of a tree's values under probabilities (..., nodes)."""
    zero, one = rate_of_zero(probabilities), rate_of_one(probabilities)
    return np.asarray(zero @ tree.turns[0] + one @ tree.turns[1])


# Tokens ----------------------------------------------------------------------------------------------------------


class LevelTables(NamedTuple):
    """What each magnitude of a level, 0 .. MAX_LEVEL, is written as."""

    token: NDArray[np.uint8]  # (2048,) DCT_0 .. dct_cat6
    rate: Rates  # (2048,) its extra bits and sign


def _level_tables() -> LevelTables:
    levels = np.arange(MAX_LEVEL + 1)
    token = np.minimum(levels, tables.DCT_4)
    rate = np.where(levels > 0, 256, 0)
    categories = zip(tables.DCT_CATEGORY_BASES, tables.DCT_CATEGORY_PROBS, strict=True)
    for category, (base, probabilities) in enumerate(categories):
        inside = levels >= base
        token[inside] = tables.DCT_CAT1 + category
        extra = levels - base
        bits = np.zeros_like(levels)
        for i, probability in enumerate(probabilities):
            one = extra >> (len(probabilities) - 1 - i) & 1
            bits += np.where(
                one, BOOLEAN_RATES[256 - int(probability)], BOOLEAN_RATES[int(probability)]
            )
        rate[inside] = 256 + bits[inside]
    return LevelTables(token.astype(np.uint8), rate.astype(np.int32))


LEVELS = _level_tables()


def token_rates(coefficients: NDArray[np.uint8]) -> Rates:
    """Rates (4, 8, 3, 12) of tokens by block type, band and context, under probabilities (4, 8, 3, 11).

    After a zero (context 0 anywhere but at a block's first position) no end of block can come, and is not paid for.
    """
    rates = tree_rates(tables.COEFF_TREE, coefficients)
    after_zero = rates[:, :, 0] - rate_of_one(coefficients[:, :, 0, 0])[..., np.newaxis]
    after_zero[..., tables.DCT_EOB] = NEVER
    for block_type in range(4):
        first_band = 1 if block_type == 0 else 0
        for band in range(8):
            if band != first_band:
                rates[block_type, band, 0] = after_zero[block_type, band]
    return rates


def position_token_rates(coefficients: NDArray[np.uint8]) -> Rates:
    """`token_rates` by position instead of band: (4, 16, 3, 12), C-contiguous."""
    return np.ascontiguousarray(token_rates(coefficients)[:, tables.COEFF_BANDS])


# Modes and vectors -----------------------------------------------------------------------------------------------


# What no probability of a frame changes.
SUB_MODE_RATES = tree_rates(tables.B_MODE_TREE, tables.B_MODE_PROBS)
VECTOR_MODE_RATES = np.stack(
    [rate_of_zero(tables.MODE_CONTEXTS), rate_of_one(tables.MODE_CONTEXTS)], axis=-1
)
PARTITIONING_RATES = tree_rates(tables.MBSPLIT_TREE, tables.MBSPLIT_PROBS)
SUB_VECTOR_RATES = tree_rates(tables.SUB_MV_REF_TREE, tables.SUB_MV_REF_PROBS)


class ModeRates(NamedTuple):
    """Rates of everything in a macroblock's header, under one set of probabilities."""

    skip: Rates  # (2,) mb_skip_coeff 0, 1
    inter: Rates  # (2,) is_inter_mb 0, 1
    reference: Rates  # (4,) intra 0, LAST, GOLDEN, ALTREF (without is_inter_mb)
    y_mode: Rates  # (5,) DC_PRED .. B_PRED
    uv_mode: Rates  # (4,) DC_PRED .. TM_PRED
    sub_mode: Rates  # (10,) B_DC_PRED .. B_HU_PRED in inter frames
    vector_mode: Rates  # (6, 4, 2) by neighbour count, node of mv_ref_tree and bit
    partitioning: Rates  # (4,) SPLIT_16X8 .. SPLIT_4X4
    sub_vector: Rates  # (5, 4) by context, LEFT4X4 .. NEW4X4
    vector: Rates  # (2, 2 LARGEST_MAGNITUDE + 1) by component and difference + LARGEST_MAGNITUDE


def mode_rates(
    probabilities: ProbabilityTables,
    *,
    prob_skip_false: int,
    prob_intra: int,
    prob_last: int,
    prob_golden: int,
    skip_enabled: bool = True,
) -> ModeRates:
    """Rates of an inter frame's modes under these probabilities and those of its header."""
    skip = _pair(prob_skip_false) if skip_enabled else np.zeros(2, np.int32)
    last, golden = _pair(prob_last), _pair(prob_golden)
    reference = np.array([0, last[0], last[1] + golden[0], last[1] + golden[1]], np.int32)
    return ModeRates(
        skip,
        _pair(prob_intra),
        reference,
        tree_rates(tables.Y_MODE_TREE, probabilities.y_mode),
        tree_rates(tables.UV_MODE_TREE, probabilities.uv_mode),
        SUB_MODE_RATES,
        VECTOR_MODE_RATES,
        PARTITIONING_RATES,
        SUB_VECTOR_RATES,
        vector_rates(probabilities.vectors),
    )


def _pair(probability: int) -> Rates:
    return np.array(
        [BOOLEAN_RATES[probability], BOOLEAN_RATES[256 - max(probability, 1)]], np.int32
    )


_HALF_WIDTH = LONG_WIDTH // 2
_HALF_BITS = np.arange(1 << _HALF_WIDTH) >> np.arange(_HALF_WIDTH)[:, np.newaxis] & 1
"""(5, 32) the bits of half of a long magnitude."""


def vector_rates(vectors: NDArray[np.uint8]) -> Rates:
    """Rates (2, 2 LARGEST_MAGNITUDE + 1) of differences -LARGEST_MAGNITUDE .. LARGEST_MAGNITUDE under probabilities (2, 19).

    Section 17.2: short magnitudes by a tree, long ones bit by bit.
    """
    zero, one = rate_of_zero(vectors), rate_of_one(vectors)
    zeros, ones = (rates[:, LONG_BITS:].reshape(2, 2, _HALF_WIDTH) for rates in (zero, one))
    halves = zeros @ (1 - _HALF_BITS) + ones @ _HALF_BITS  # (2, low and high, 32)
    rates = one[:, [IS_SHORT]] + np.add(halves[:, 1, :, None], halves[:, 0, None]).reshape(2, -1)
    rates[:, 8:16] -= one[:, [LONG_BITS + 3]]  # implied where no higher bit is set
    short = tree_rates(tables.SMALL_MV_TREE, vectors[:, SHORT_TREE:LONG_BITS])
    rates[:, :8] = zero[:, [IS_SHORT]] + short
    positive, negative = rates + zero[:, [SIGN]], rates + one[:, [SIGN]]
    both = (negative[:, :0:-1], rates[:, :1], positive[:, 1:])
    return np.concatenate(both, axis=1).astype(np.int32)


# Rate against distortion -----------------------------------------------------------------------------------------

RATE_WEIGHT = 7.168
"""libvpx's 0.028 squared pixel errors a bit and squared step, in this module's units (x 16 << 12 / 256)."""


def rate_multiplier(dc_step: int, weight: float = 1.0) -> int:
    """How much a bit x 256 weighs for a luma DC step (libvpx: 2.80 q^2 / 100, q at most 160), times `weight`."""
    step = min(int(dc_step), 160)
    return max(1, round(RATE_WEIGHT * weight * step * step))
