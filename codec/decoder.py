"""Frames to states and pictures, bit for bit as libvpx (RFC 6386): `decode`."""

from __future__ import annotations

import numpy as np

from codec.bitstream import open_frame, read_frame_modes, refuse_truncated_start
from codec.borders import extend_borders
from codec.frame import Image, Macroblocks, Picture, macroblock_size, new_macroblocks, new_picture
from codec.frame_header import FrameHeader
from codec.kernel import kernel
from codec.predict_intra import set_intra_border
from codec.reconstruct import filter_picture, frame_quantizers, reconstruct_row
from codec.state import DecoderState, References
from codec.tokens import CONTEXTS, read_tokens_row
from codec.transition import segment_map_before, state_after


def decode(state: DecoderState | None, data: bytes) -> tuple[DecoderState, Image | None]:
    """Decode a frame that comes after `state` (None at the start of a stream): the next state, and what is shown.

    The image is None for hidden frames; empty data shows LAST again. Raises InvalidBitstream for data that libvpx
    refuses, and leaves `state` as it was.
    """
    if not data and state is not None and state.references is not None:
        return state, state.references.last.crop(state.width, state.height)
    opened = open_frame(state, data)
    header = opened.header
    rows, columns = macroblock_size(header.width, header.height)
    macroblocks = _new_row_buffered_macroblocks(rows, columns)
    macroblocks.segment[:] = segment_map_before(state, header)
    read_frame_modes(opened, macroblocks)
    picture = new_picture(rows, columns)
    after = state_after(state, header, opened.probabilities, macroblocks.segment, picture)
    _decode_rows(
        opened.data,
        opened.windows,
        opened.probabilities.coefficients.reshape(-1),
        macroblocks,
        frame_quantizers(header, after.segmentation),
        _references_to_read(state, header, picture),
        header.version,
        picture,
        np.zeros((columns, CONTEXTS), np.uint8),
        np.zeros(CONTEXTS, np.uint8),
        np.zeros((25, 16), np.int16),
    )
    refuse_truncated_start(state, opened)
    filter_picture(header, after.segmentation, after.filter_deltas, macroblocks, picture)
    extend_borders(picture)
    return after, picture.crop(header.width, header.height) if header.show else None


def _new_row_buffered_macroblocks(rows: int, columns: int) -> Macroblocks:
    """Macroblocks of a frame, but with levels and ends of blocks of one row only."""
    size, row = (rows, columns), new_macroblocks(1, columns)
    return row._replace(
        segment=np.zeros(size, np.uint8),
        skip=np.zeros(size, np.uint8),
        y_mode=np.zeros(size, np.uint8),
        uv_mode=np.zeros(size, np.uint8),
        reference=np.zeros(size, np.uint8),
        partitioning=np.zeros(size, np.uint8),
        sub_modes=np.zeros((*size, 16), np.uint8),
        vectors=np.zeros((*size, 16, 2), np.int16),
        coded=np.zeros(size, np.uint8),
    )


def _references_to_read(
    state: DecoderState | None, header: FrameHeader, picture: Picture
) -> References:
    """The pictures to predict from; key frames look at none, but the kernel wants some."""
    if header.key_frame:
        return References(picture, picture, picture)
    if state is None or state.references is None:
        raise ValueError("this state has no reference pictures: it serves for parsing only")
    return state.references


@kernel
def _decode_rows(
    data,
    windows,
    probabilities,
    macroblocks,
    factors,
    references,
    version,
    picture,
    above,
    left,
    coefficients,
):
    """Read tokens and reconstruct, row by row; macroblocks as `_new_row_buffered_macroblocks` makes them.

    above (C, CONTEXTS) and left (CONTEXTS,) uint8, coefficients (25, 16) int16: room, the first two zero.
    """
    set_intra_border(picture)
    rows, columns = macroblocks.y_mode.shape
    levels, eobs = macroblocks.coefficients[0], macroblocks.eobs[0]
    flat_levels = levels.reshape(columns, 400)
    for row in range(rows):
        coded = macroblocks.coded[row]
        read_tokens_row(
            data,
            windows[row % len(windows)],
            probabilities,
            macroblocks.skip[row],
            macroblocks.y_mode[row],
            above,
            left,
            flat_levels,
            eobs,
            coded,
        )
        reconstruct_row(
            macroblocks,
            levels,
            eobs,
            coded,
            factors,
            references,
            version,
            picture,
            row,
            coefficients,
        )
        for column in range(columns):
            if coded[column]:
                levels[column] = 0
