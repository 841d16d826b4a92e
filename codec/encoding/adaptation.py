"""Probabilities fitted to what a frame codes: from counts of its booleans to the updates that pay for themselves.

RFC 6386 sections 9.6, 9.9 to 9.11, 13.4, 16.2 and 17.2 say what a frame can change.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from codec.encoding.rate_distortion import BOOLEAN_RATES, rate_of_one, rate_of_zero
from codec.frame import Macroblocks
from codec.frame_header import FrameHeader
from codec.kernel import inline_kernel, kernel
from codec.modes import (
    GOLDEN,
    INTRA,
    LAST,
    SEGMENT,
    SKIP,
    UV_MODE,
    VECTORS,
    Y_MODE,
    count_modes,
)
from codec.state import ProbabilityTables
from codec.tables import COEFF_UPDATE_PROBS, MV_UPDATE_PROBS
from codec.tokens import count_tokens

Counts = NDArray[np.int64]
Probabilities = NDArray[np.uint8]

BYTE_RATE = 8 * 256
VECTOR_RATE = 7 * 256


def adapt(
    before: ProbabilityTables, header: FrameHeader, macroblocks: Macroblocks
) -> tuple[FrameHeader, ProbabilityTables]:
    """The header and tables under which these macroblocks, with the updates from `before`, take the fewest bits.

    Whether macroblocks say that they are skipped is decided here too: they do if any is.
    """
    skip_enabled = bool(macroblocks.skip.any())
    header = header._replace(skip_enabled=skip_enabled)
    modes, tokens = count_modes(header, macroblocks), count_tokens(macroblocks)
    fitted = fit(modes)
    header = header._replace(prob_skip_false=int(fitted[SKIP]) if skip_enabled else 0)
    if header.segmentation.update_map:
        first, second, third = (int(p) for p in fitted[SEGMENT:])
        update = header.segmentation._replace(tree_probabilities=(first, second, third))
        header = header._replace(segmentation=update)
    coefficients = fit_coefficients(before.coefficients, tokens)
    if header.key_frame:
        return header, before._replace(coefficients=coefficients)
    header = header._replace(
        prob_intra=int(fitted[INTRA]), prob_last=int(fitted[LAST]), prob_golden=int(fitted[GOLDEN])
    )
    return header, ProbabilityTables(
        coefficients,
        fit_modes(before.y_mode, modes[Y_MODE:UV_MODE]),
        fit_modes(before.uv_mode, modes[UV_MODE:VECTORS]),
        fit_vectors(before.vectors, modes[VECTORS:SKIP]),
    )


def fit(counts: Counts) -> Probabilities:
    """Probabilities (N,) 1..255 nearest to counts (N, 2) of zeros and ones; 255 where there are none."""
    fitted = np.empty(counts.shape[:-1], np.uint8)
    _fit(counts, fitted)
    return fitted


@kernel
def _fit(counts, fitted):
    for i in range(len(fitted)):
        total = counts[i, 0] + counts[i, 1]
        nearest = np.int64(255)
        if total > 0:
            nearest = (256 * counts[i, 0] + (total >> 1)) // total
        fitted[i] = min(max(nearest, np.int64(1)), np.int64(255))


def rate(counts: Counts, probabilities: Probabilities) -> Counts:
    """Bits x 256 of so many zeros and ones under each probability."""
    zeros, ones = rate_of_zero(probabilities), rate_of_one(probabilities)
    return np.asarray(counts[..., 0] * zeros + counts[..., 1] * ones)


def fit_coefficients(before: Probabilities, counts: Counts) -> Probabilities:
    """Coefficient probabilities (4, 8, 3, 11): each is updated where that saves bits (section 13.4)."""
    return _updated_where_cheaper(before, fit(counts), counts, COEFF_UPDATE_PROBS, BYTE_RATE)


def fit_vectors(before: Probabilities, counts: Counts) -> Probabilities:
    """Vector probabilities (2, 19), of which an update says seven bits (section 17.2)."""
    candidates = sayable(fit(counts))
    return _updated_where_cheaper(before, candidates, counts, MV_UPDATE_PROBS, VECTOR_RATE)


def sayable(vectors: Probabilities) -> Probabilities:
    """Vector probabilities that an update can say: even ones and 1 (section 17.2). The defaults are not all."""
    return np.maximum(vectors & 254, 1)


def _updated_where_cheaper(
    before: Probabilities,
    candidates: Probabilities,
    counts: Counts,
    update_probabilities: Probabilities,
    literal_rate: int,
) -> Probabilities:
    updated = np.empty_like(before)
    _update_where_cheaper(
        before.reshape(-1),
        candidates,
        counts,
        update_probabilities.reshape(-1),
        literal_rate,
        updated.reshape(-1),
    )
    return updated


@kernel
def _update_where_cheaper(before, candidates, counts, update_probabilities, literal_rate, updated):
    for i in range(len(before)):
        said = np.int64(update_probabilities[i])
        saved = _rate(counts[i], before[i]) - _rate(counts[i], candidates[i])
        saved += np.int64(BOOLEAN_RATES[said]) - np.int64(BOOLEAN_RATES[256 - said])
        updated[i] = candidates[i] if saved > literal_rate else before[i]


@inline_kernel
def _rate(counts, probability):
    """Bits x 256 of so many zeros and ones under a probability."""
    zero = max(np.int64(probability), np.int64(1))
    return counts[0] * np.int64(BOOLEAN_RATES[zero]) + counts[1] * np.int64(
        BOOLEAN_RATES[256 - zero]
    )


def fit_modes(before: Probabilities, counts: Counts) -> Probabilities:
    """Mode probabilities, which a frame updates all at once or not at all (section 16.2)."""
    candidates = np.where(counts.sum(axis=-1) > 0, fit(counts), before).astype(np.uint8)
    saved = int(rate(counts, before).sum() - rate(counts, candidates).sum())
    return candidates if saved > BYTE_RATE * len(before) else before


def skip_rates(header: FrameHeader) -> NDArray[np.int32]:
    """Rates (2,) of mb_skip_coeff 0 and 1 under a header; even odds where it does not code them."""
    probability = header.prob_skip_false if header.skip_enabled else 128
    return BOOLEAN_RATES[[probability, 256 - max(probability, 1)]]
