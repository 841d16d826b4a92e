"""Probabilities fitted to what a frame codes: from counts of its booleans to the updates that pay for themselves.

RFC 6386 sections 9.6, 9.9 to 9.11, 13.4, 16.2 and 17.2 say what a frame can change.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from codec.encoding.rate_distortion import BOOLEAN_RATES, rate_of_one, rate_of_zero
from codec.frame import Macroblocks
from codec.frame_header import FrameHeader
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
    total = counts.sum(axis=-1)
    nearest = (256 * counts[..., 0] + total // 2) // np.maximum(total, 1)
    return np.where(total > 0, np.clip(nearest, 1, 255), 255).astype(np.uint8)


def rate(counts: Counts, probabilities: Probabilities) -> Counts:
    """Bits x 256 of so many zeros and ones under each probability."""
    zeros, ones = rate_of_zero(probabilities), rate_of_one(probabilities)
    return np.asarray(counts[..., 0] * zeros + counts[..., 1] * ones)


def fit_coefficients(before: Probabilities, counts: Counts) -> Probabilities:
    """Coefficient probabilities (4, 8, 3, 11): each is updated where that saves bits (section 13.4)."""
    counts = counts.reshape(*before.shape, 2)
    return _updated_where_cheaper(before, fit(counts), counts, COEFF_UPDATE_PROBS, BYTE_RATE)


def fit_vectors(before: Probabilities, counts: Counts) -> Probabilities:
    """Vector probabilities (2, 19), of which an update says seven bits (section 17.2)."""
    counts = counts.reshape(*before.shape, 2)
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
    update = rate_of_one(update_probabilities) + literal_rate
    saved = rate(counts, before) - rate(counts, candidates)
    cheaper = saved + rate_of_zero(update_probabilities) > update
    return np.where(cheaper, candidates, before).astype(np.uint8)


def fit_modes(before: Probabilities, counts: Counts) -> Probabilities:
    """Mode probabilities, which a frame updates all at once or not at all (section 16.2)."""
    candidates = np.where(counts.sum(axis=-1) > 0, fit(counts), before).astype(np.uint8)
    saved = int(rate(counts, before).sum() - rate(counts, candidates).sum())
    return candidates if saved > BYTE_RATE * len(before) else before


def skip_rates(header: FrameHeader) -> NDArray[np.int32]:
    """Rates (2,) of mb_skip_coeff 0 and 1 under a header; even odds where it does not code them."""
    probability = header.prob_skip_false if header.skip_enabled else 128
    return BOOLEAN_RATES[[probability, 256 - max(probability, 1)]]
