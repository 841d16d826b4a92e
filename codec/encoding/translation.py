"""A frame made against one state, said to a decoder in another: what the second holds otherwise is said, what it holds
already is left out.
"""

from __future__ import annotations

import numpy as np

from codec.bitstream import Frame, parse, serialize
from codec.encoding.frame_coding import filter_delta_update
from codec.errors import UnsupportedFeature
from codec.frame_header import FrameHeader
from codec.state import DecoderState, Segmentation
from codec.transition import filter_deltas_after, segmentation_after


def translate(state: DecoderState, data: bytes, source_state: DecoderState) -> bytes:
    """The same frame for a decoder in `state` instead of `source_state`, the one that it was made against.

    It shows the same and leads to the same probabilities, segments and deltas; to the same pictures where those that it
    predicts from, and those that it leaves, are the same in both states. Raises UnsupportedFeature for vector probabilities
    that no update leads to (those of a frame encoded with `settled` can be led to from any), and for states of two sizes.
    Key frames lean on no state and come out as they are. InvalidBitstream for no frame.
    """
    frame = parse(source_state, data)
    if frame.header.key_frame:
        return data
    if (state.width, state.height) != (source_state.width, source_state.height):
        raise UnsupportedFeature(
            f"cannot tell a frame of {source_state.width}x{source_state.height} pixels to a decoder that has "
            f"{state.width}x{state.height}"
        )
    header, segmentation = header_for(state, frame, source_state)
    macroblocks = frame.macroblocks._replace(segment=segmentation.map)
    return serialize(state, Frame(header, frame.probabilities, macroblocks))


def header_for(
    state: DecoderState, frame: Frame, source_state: DecoderState
) -> tuple[FrameHeader, Segmentation]:
    """The frame's header so that after `state` it means what it meant, and the segmentation then in force."""
    header = frame.header
    wanted = segmentation_after(source_state, header, frame.macroblocks.segment)
    deltas = filter_deltas_after(source_state, header)
    header = header._replace(
        horizontal_scale=state.horizontal_scale,
        vertical_scale=state.vertical_scale,
        color_space=state.color_space,
        clamping_type=state.clamping_type,
    )
    if deltas.enabled:
        update = filter_delta_update(state.filter_deltas, deltas)
        header = header._replace(filter_deltas=update)
    if wanted.enabled:
        header = _say_segmentation(state, header, wanted)
        return header, wanted
    return header, segmentation_after(state, header, state.segmentation.map)


def _say_segmentation(
    state: DecoderState, header: FrameHeader, wanted: Segmentation
) -> FrameHeader:
    """Add to the header's update what the state does not hold of the wanted values and map."""
    update = header.segmentation
    held = segmentation_after(state, header, state.segmentation.map)
    same_values = (
        held.absolute == wanted.absolute
        and np.array_equal(held.quantizer, wanted.quantizer)
        and np.array_equal(held.filter_level, wanted.filter_level)
    )
    if not same_values:
        update = update._replace(
            absolute=wanted.absolute,
            quantizer=tuple(wanted.quantizer.tolist()),
            filter_level=tuple(wanted.filter_level.tolist()),
        )
    if not np.array_equal(held.map, wanted.map):
        update = update._replace(tree_probabilities=(128, 128, 128))
    elif update.update_map:
        update = update._replace(tree_probabilities=None)
    return header._replace(segmentation=update)
