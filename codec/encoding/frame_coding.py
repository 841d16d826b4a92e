"""The last steps of coding a frame, after its macroblocks: probabilities, bytes, loop filter, the state it leaves."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from codec.bitstream import Frame, serialize
from codec.borders import extend_borders
from codec.encoding.adaptation import adapt, sayable
from codec.frame import Macroblocks, Picture
from codec.frame_header import FilterDeltaUpdate, FrameHeader
from codec.reconstruct import filter_picture
from codec.state import DecoderState, FilterDeltas
from codec.transition import probabilities_before, state_after


class Encoded(NamedTuple):
    """A coded frame and what a decoder remembers after it."""

    data: bytes
    state: DecoderState


def filter_delta_update(held: FilterDeltas | None, wanted: FilterDeltas) -> FilterDeltaUpdate:
    """What leads from the loop-filter deltas of a state (None: all zero) to the wanted ones, in force."""
    reference = _changes(None if held is None else held.reference, wanted.reference)
    mode = _changes(None if held is None else held.mode, wanted.mode)
    update = any(value is not None for value in reference + mode)
    return FilterDeltaUpdate(True, update, reference, mode)


def _changes(held: NDArray[np.int8] | None, wanted: NDArray[np.int8]) -> tuple[int | None, ...]:
    old = np.zeros_like(wanted) if held is None else held
    return tuple(None if a == b else b for a, b in zip(old.tolist(), wanted.tolist(), strict=True))


def finish_frame(
    state: DecoderState | None,
    header: FrameHeader,
    macroblocks: Macroblocks,
    picture: Picture,
    settled: bool = False,
) -> Encoded:
    """Fit the probabilities, write the frame and make the state that follows `state`.

    The picture is the reconstruction before the loop filter; it is filtered in place and becomes part of the state.
    `macroblocks` must hold the segments that are in force, and in `skip` whether they have a residue. `settled`: with
    probabilities that updates can lead to from any others (see `translation`).
    """
    before = probabilities_before(state, header)
    header, probabilities = adapt(before, header, macroblocks)
    if settled:
        probabilities = probabilities._replace(vectors=sayable(probabilities.vectors))
    data = serialize(state, Frame(header, probabilities, macroblocks))
    after = state_after(state, header, probabilities, macroblocks.segment, picture)
    filter_picture(header, after.segmentation, after.filter_deltas, macroblocks, picture)
    extend_borders(picture)
    return Encoded(data, after)
