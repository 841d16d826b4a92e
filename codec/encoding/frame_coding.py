"""The last steps of coding a frame, after its macroblocks: probabilities, bytes, loop filter, the state it leaves."""

from __future__ import annotations

from typing import NamedTuple

from codec.bitstream import Frame, serialize
from codec.borders import extend_borders
from codec.encoding.adaptation import adapt
from codec.frame import Macroblocks, Picture
from codec.frame_header import FrameHeader
from codec.reconstruct import filter_picture
from codec.state import DecoderState
from codec.transition import probabilities_before, state_after


class Encoded(NamedTuple):
    """A coded frame and what a decoder remembers after it."""

    data: bytes
    state: DecoderState


def finish_frame(
    state: DecoderState | None, header: FrameHeader, macroblocks: Macroblocks, picture: Picture
) -> Encoded:
    """Fit the probabilities, write the frame and make the state that follows `state`.

    The picture is the reconstruction before the loop filter; it is filtered in place and becomes part of the state.
    `macroblocks` must hold the segments that are in force, and in `skip` whether they have a residue.
    """
    before = probabilities_before(state, header)
    header, probabilities = adapt(before, header, macroblocks)
    data = serialize(state, Frame(header, probabilities, macroblocks))
    after = state_after(state, header, probabilities, macroblocks.segment, picture)
    filter_picture(header, after.segmentation, after.filter_deltas, macroblocks, picture)
    extend_borders(picture)
    return Encoded(data, after)
