"""What a frame leaves behind: the state after it, from the state before it and its header (RFC 6386 chapter 9)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from codec.frame import Picture, macroblock_size
from codec.frame_header import DEFAULT_PROBABILITIES, FrameHeader
from codec.state import DecoderState, FilterDeltas, ProbabilityTables, References, Segmentation


def state_after(
    state: DecoderState | None,
    header: FrameHeader,
    probabilities: ProbabilityTables,
    segments: NDArray[np.uint8],
    picture: Picture,
) -> DecoderState:
    """The state that follows a frame whose tables, segment map and finished picture these are.

    The picture may still be finished in place after this call, before anyone reads the state's references.
    """
    return DecoderState(
        header.width,
        header.height,
        header.horizontal_scale,
        header.vertical_scale,
        header.color_space,
        header.clamping_type,
        probabilities_after(state, header, probabilities),
        segmentation_after(state, header, segments),
        filter_deltas_after(state, header),
        references_after(state, header, picture),
    )


def probabilities_before(state: DecoderState | None, header: FrameHeader) -> ProbabilityTables:
    """The tables that a frame's updates start from: key frames begin with the defaults (section 9.11)."""
    return DEFAULT_PROBABILITIES if header.key_frame or state is None else state.probabilities


def probabilities_after(
    state: DecoderState | None, header: FrameHeader, in_force: ProbabilityTables
) -> ProbabilityTables:
    """A frame may keep its probabilities to itself (section 9.11)."""
    return in_force if header.refresh_entropy else probabilities_before(state, header)


def segment_map_before(state: DecoderState | None, header: FrameHeader) -> NDArray[np.uint8]:
    """The map that a frame without one of its own has: key frames clear it (section 9.3)."""
    if header.key_frame or state is None:
        return np.zeros(macroblock_size(header.width, header.height), np.uint8)
    return state.segmentation.map


def segmentation_after(
    state: DecoderState | None, header: FrameHeader, segments: NDArray[np.uint8]
) -> Segmentation:
    """Values and map persist until they are updated; key frames reset them (section 9.3)."""
    update = header.segmentation
    absolute, quantizer, filter_level = False, np.zeros(4, np.int8), np.zeros(4, np.int8)
    if state is not None and not header.key_frame:
        _, absolute, quantizer, filter_level, _ = state.segmentation
    if update.update_data:
        absolute = update.absolute
        quantizer = np.array(update.quantizer, np.int8)
        filter_level = np.array(update.filter_level, np.int8)
    return Segmentation(update.enabled, absolute, quantizer, filter_level, segments)


def filter_deltas_after(state: DecoderState | None, header: FrameHeader) -> FilterDeltas:
    """Deltas persist until they are updated; key frames reset them (section 9.6)."""
    update = header.filter_deltas
    reference, mode = np.zeros(4, np.int8), np.zeros(4, np.int8)
    if state is not None and not header.key_frame:
        reference, mode = state.filter_deltas.reference, state.filter_deltas.mode
    return FilterDeltas(
        update.enabled, _updated(reference, update.reference), _updated(mode, update.mode)
    )


def _updated(values: NDArray[np.int8], updates: tuple[int | None, ...]) -> NDArray[np.int8]:
    pairs = zip(values, updates, strict=True)
    return np.array([value if update is None else update for value, update in pairs], np.int8)


def references_after(
    state: DecoderState | None, header: FrameHeader, picture: Picture
) -> References:
    """Sections 9.7 and 9.8, in libvpx's order: ALTREF is copied before GOLDEN, both before they are refreshed."""
    if header.key_frame or state is None or state.references is None:
        return References(picture, picture, picture)
    last, golden, altref = state.references
    altref = (altref, last, golden)[header.copy_to_altref]
    golden = (golden, last, altref)[header.copy_to_golden]
    return References(
        picture if header.refresh_last else last,
        picture if header.refresh_golden else golden,
        picture if header.refresh_altref else altref,
    )
