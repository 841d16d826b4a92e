"""Where a frame's bits go: what each syntax element takes in the boolean coder's arithmetic (RFC 6386 section 7.3).

The booleans are those that the frame was read from, recorded anew as an encoder does; each takes the logarithm of the
coder's range over its part of it, so that what a partition takes is what its coder has shifted out, to a bit.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from codec.bitstream import OpenFrame, open_frame, parse
from codec.frame_header import parse_frame_tag
from codec.modes import (
    GOLDEN,
    INTRA,
    LAST,
    MODE_PROBABILITIES,
    SEGMENT,
    SKIP,
    VECTORS,
    Y_MODE,
    mode_probabilities,
    recorded_modes,
)
from codec.records import weigh_records
from codec.state import DecoderState
from codec.tokens import recorded_tokens

ELEMENTS = (
    "header",  # of the frame, with updates of probabilities
    "segments",  # the map of section 9.3
    "skip",  # mb_skip_coeff
    "reference",  # intra, LAST, GOLDEN or ALTREF
    "intra_modes",  # of luma, subblocks and chroma
    "inter_modes",  # which vector, partitionings and sub-modes of SPLITMV
    "vectors",  # differences of motion vectors
    "y_after_y2",
    "y2",
    "chroma",
    "y_with_dc",
    "framing",  # frame tag, sizes and ends of partitions
)
HEADER, SEGMENTS, SKIPS, REFERENCE, INTRA_MODES, INTER_MODES, DIFFERENCES, TOKENS = range(8)
FRAMING = len(ELEMENTS) - 1
WHOLE_RANGE = 255


def _mode_elements() -> NDArray[np.int64]:
    """By place of mode probabilities: its element, and that of the booleans of fixed probability that follow."""
    own, after = np.full((2, MODE_PROBABILITIES), INTRA_MODES)
    own[SEGMENT:] = SEGMENTS
    own[SKIP] = SKIPS
    own[[INTRA, LAST, GOLDEN]] = REFERENCE
    own[Y_MODE:VECTORS] = INTRA_MODES
    own[VECTORS:SKIP] = DIFFERENCES
    after[[LAST, GOLDEN]] = INTER_MODES
    after[VECTORS:SKIP] = INTER_MODES
    return np.stack([own, after])


MODE_ELEMENTS = _mode_elements()
TOKEN_ELEMENTS = np.tile(TOKENS + np.repeat(np.arange(4), 264), (2, 1))
"""Signs and extra bits belong to the block of the token before them."""


def element_bits(state: DecoderState | None, data: bytes) -> dict[str, float]:
    """Bits of a frame that comes after `state`, by ELEMENTS; they sum up to 8 times its bytes.

    Raises InvalidBitstream as `parse` does.
    """
    opened, frame = open_frame(state, data), parse(state, data)
    bits = np.zeros(len(ELEMENTS))
    bits[HEADER] = _read_so_far(opened, parse_frame_tag(data).size)
    range_ = int(opened.reader.window[1])
    modes = mode_probabilities(frame.header, frame.probabilities)
    for records in recorded_modes(frame.header, frame.macroblocks):
        range_ = weigh_records(range_, modes, MODE_ELEMENTS, INTRA_MODES, records, bits)
    ranges = [WHOLE_RANGE] * len(opened.windows)
    tokens = frame.probabilities.coefficients.ravel()
    for row, records in enumerate(recorded_tokens(frame.macroblocks)):
        partition = row % len(ranges)
        ranges[partition] = weigh_records(
            ranges[partition], tokens, TOKEN_ELEMENTS, TOKENS, records, bits
        )
    bits[FRAMING] = 8 * len(data) - bits.sum()
    return dict(zip(ELEMENTS, bits.tolist(), strict=True))


def _read_so_far(opened: OpenFrame, start: int) -> float:
    """Bits that the reader of the first partition has used."""
    _, range_, bits, position, _ = opened.reader.window.tolist()
    return 8 * (position - start) - (8 + bits) + float(np.log2(WHOLE_RANGE / range_))
