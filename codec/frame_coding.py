"""The last steps of coding a frame, after its macroblocks: probabilities, bytes, loop filter, the state it leaves."""

from __future__ import annotations

from typing import NamedTuple

from codec.adaptation import adapt
from codec.borders import extend_borders
from codec.decoder import (
    _filter,
    _filter_deltas_after,
    _probabilities_after,
    _segmentation_after,
    references_after,
    serialize,
)
from codec.frame import Frame, Macroblocks, Picture
from codec.frame_header import DEFAULT_PROBABILITIES, FrameHeader
from codec.state import DecoderState


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
    before = DEFAULT_PROBABILITIES if header.key_frame or state is None else state.probabilities
    header, probabilities = adapt(before, header, macroblocks)
    data = serialize(state, Frame(header, probabilities, macroblocks))
    segmentation = _segmentation_after(state, header, macroblocks.segment)
    filter_deltas = _filter_deltas_after(state, header)
    if header.filter_level:
        _filter(header, segmentation, filter_deltas, macroblocks, picture)
    extend_borders(picture)
    after = DecoderState(
        header.width,
        header.height,
        header.horizontal_scale,
        header.vertical_scale,
        header.color_space,
        header.clamping_type,
        _probabilities_after(state, header, probabilities),
        segmentation,
        filter_deltas,
        references_after(state, header, picture),
    )
    return Encoded(data, after)
