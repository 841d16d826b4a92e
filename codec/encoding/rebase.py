"""A frame made against one state, made again against another: `rebase` (the serial step of the ExCamera method).

Modes, vectors, references, quantizers, filter and what the frame refreshes are kept; the prediction comes from the
new state, the residue from the original picture, and the probabilities are fitted anew. What the frame leaves unsaid
because its own state already held it (segments, loop-filter deltas) is said where the new state holds something else.
"""

from __future__ import annotations

import numpy as np

from codec.bitstream import Frame, parse, serialize
from codec.decoder import decode
from codec.encoding.adaptation import skip_rates
from codec.encoding.frame_coding import Encoded, finish_frame
from codec.encoding.masking import activity_masking
from codec.encoding.residual import (
    Tuning,
    code_macroblock,
    new_buffers,
    new_contexts,
    new_residual_coder,
)
from codec.encoding.translation import header_for
from codec.errors import UnsupportedFeature
from codec.frame import (
    Image,
    Macroblocks,
    check_image,
    new_picture,
    picture_from_image,
)
from codec.frame_header import FrameHeader
from codec.kernel import kernel
from codec.predict_intra import set_intra_border
from codec.reconstruct import frame_quantizers, predict_macroblock
from codec.state import DecoderState, Segmentation

REBASE_TUNING = Tuning(rate_weight=0.6)
"""Frames that only LAST remembers: what they leave out is missed by all frames until the next golden one."""

REFRESH_TUNING = Tuning(rate_weight=1.25)
"""Frames that refresh GOLDEN or ALTREF, which the first pass gives a finer quantizer already."""


def rebase(
    state: DecoderState,
    image: Image,
    frame: bytes | Frame,
    source_state: DecoderState | None,
    *,
    tuning: Tuning | None = None,
) -> Encoded:
    """Make a frame again so that it follows `state` instead of `source_state`, the state it was made against.

    `image` is the original picture; `tuning` replaces the residual coder's weights. Key frames and empty frames lean
    on no state and come out as they are. Raises UnsupportedFeature where the two states' sizes differ,
    InvalidBitstream for bytes that are no frame, ValueError for what is no picture, for states without pictures, and for
    flags and weights that are none.
    """
    check_image(image)
    if isinstance(frame, bytes):
        if not frame:
            return Encoded(frame, state)
        frame = parse(source_state, frame)
    frame.header.check_flags()
    if frame.header.key_frame:
        data = serialize(state, frame)
        return Encoded(data, decode(state, data)[0])
    _check_sizes(state, image, frame.header)
    if source_state is None or state.references is None:
        raise ValueError(
            "an inter frame can only be rebased from one state to another with pictures"
        )
    header, segmentation = header_for(state, frame, source_state)
    macroblocks = _with_segments(frame.macroblocks, segmentation)
    if tuning is None:
        refreshes = header.refresh_golden or header.refresh_altref
        tuning = REFRESH_TUNING if refreshes else REBASE_TUNING
    tuning.check()
    source = picture_from_image(image)
    coder = new_residual_coder(
        frame_quantizers(header, segmentation),
        frame.probabilities.coefficients,
        skip_rates(frame.header),
        activity_masking(source),
        tuning=tuning,
    )
    rows, columns = macroblocks.y_mode.shape
    picture = new_picture(rows, columns)
    _code_frame(
        coder,
        source,
        macroblocks,
        state.references,
        header.version,
        new_contexts(columns),
        picture,
        new_buffers(),
    )
    return finish_frame(state, header, macroblocks, picture)


def _check_sizes(state: DecoderState, image: Image, header: FrameHeader) -> None:
    sizes = {
        (state.width, state.height),
        (image.width, image.height),
        (header.width, header.height),
    }
    if len(sizes) > 1:
        raise UnsupportedFeature(
            f"cannot rebase a frame of {header.width}x{header.height} pixels onto a state of "
            f"{state.width}x{state.height} for a picture of {image.width}x{image.height}"
        )


# Macroblocks of its own ---------------------------------------------------------------------------------------------


def _with_segments(macroblocks: Macroblocks, segmentation: Segmentation) -> Macroblocks:
    """The macroblocks with room of their own for what rebasing writes, in the segments that are in force."""
    return macroblocks._replace(
        segment=segmentation.map.copy(),
        skip=np.zeros_like(macroblocks.skip),
        coefficients=np.zeros_like(macroblocks.coefficients),
        eobs=np.zeros_like(macroblocks.eobs),
        coded=np.zeros_like(macroblocks.coded),
    )


# Macroblocks -------------------------------------------------------------------------------------------------------


@kernel
def _code_frame(coder, source, macroblocks, references, version, contexts, picture, buffers):
    """Predict, code and reconstruct all macroblocks; the picture is left without loop filter and border."""
    set_intra_border(picture)
    rows, columns = macroblocks.y_mode.shape
    contexts.above[:] = 0
    for mb_row in range(rows):
        contexts.left[:] = 0
        for mb_col in range(columns):
            predict_macroblock(macroblocks, references, version, picture, mb_row, mb_col)
            code_macroblock(coder, source, mb_row, mb_col, macroblocks, contexts, picture, buffers)
