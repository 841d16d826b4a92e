"""Frames to bytes and back, without their pictures: `parse` and `serialize` (RFC 6386 chapter 9)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from codec.bool_coder import BoolReader, BoolWriter, open_windows
from codec.errors import InvalidBitstream, UnsupportedFeature
from codec.frame import Macroblocks, macroblock_size, new_macroblocks
from codec.frame_header import (
    PARTITION_LIMIT,
    Carried,
    FrameHeader,
    FrameTag,
    parse_frame_header,
    parse_frame_tag,
    serialize_frame_header,
    serialize_frame_tag,
)
from codec.modes import mode_probabilities, read_modes, write_modes
from codec.state import DecoderState, ProbabilityTables
from codec.tokens import read_tokens, write_tokens
from codec.transition import probabilities_before, segment_map_before

HEADER_CAPACITY = 4096
MODES_CAPACITY = 64
TOKENS_CAPACITY = 400
"""First guesses of bytes: of a header, and of a macroblock's modes and tokens. Writers that need more are run again."""


class Frame(NamedTuple):
    """A parsed frame: its header, the probabilities in force while it is read, and its macroblocks."""

    header: FrameHeader
    probabilities: ProbabilityTables
    macroblocks: Macroblocks


class OpenFrame(NamedTuple):
    """A frame whose header is read: the reader stands before the modes, the windows before the tokens."""

    header: FrameHeader
    probabilities: ProbabilityTables
    data: NDArray[np.uint8]
    reader: BoolReader
    windows: NDArray[np.int64]


def parse(state: DecoderState | None, data: bytes) -> Frame:
    """Read a frame that comes after `state` (None at the start of a stream) without making its picture.

    Raises InvalidBitstream for data that libvpx refuses; truncated frames that it tolerates are filled up like there.
    """
    opened = open_frame(state, data)
    header = opened.header
    macroblocks = new_macroblocks(*macroblock_size(header.width, header.height))
    macroblocks.segment[:] = segment_map_before(state, header)
    read_frame_modes(opened, macroblocks)
    coefficients = opened.probabilities.coefficients.reshape(-1)
    read_tokens(opened.data, opened.windows, coefficients, macroblocks)
    refuse_truncated_start(state, opened)
    return Frame(header, opened.probabilities, macroblocks)


def serialize(state: DecoderState | None, frame: Frame) -> bytes:
    """Write a frame that a decoder in `state` will read as `frame`: the inverse of `parse`.

    Probability updates lead from the state's tables to the frame's. Raises UnsupportedFeature for what VP8 cannot say.
    """
    header, macroblocks = frame.header, frame.macroblocks
    first = _serialize_first_partition(frame, probabilities_before(state, header))
    partitions = _serialize_tokens(frame, 1 << header.log2_partitions)
    tag = FrameTag(
        header.key_frame,
        header.version,
        header.show,
        len(first),
        header.width,
        header.height,
        header.horizontal_scale,
        header.vertical_scale,
    )
    if macroblocks.y_mode.shape != macroblock_size(header.width, header.height):
        raise UnsupportedFeature("the macroblocks do not fit the header's picture size")
    for partition in partitions:
        if len(partition) > PARTITION_LIMIT:
            raise UnsupportedFeature(
                f"token partition of {len(partition)} bytes; VP8 allows {PARTITION_LIMIT}"
            )
    sizes = b"".join(len(partition).to_bytes(3, "little") for partition in partitions[:-1])
    return serialize_frame_tag(tag) + first + sizes + b"".join(partitions)


# Opening a frame ---------------------------------------------------------------------------------------------------


def open_frame(state: DecoderState | None, data: bytes) -> OpenFrame:
    """Read a frame's header and find its partitions; raises InvalidBitstream where libvpx does."""
    tag = parse_frame_tag(data)
    if state is None and not tag.key_frame:
        raise InvalidBitstream("the first frame of a stream must be a key frame (byte 0)")
    if tag.size + tag.first_partition_size > len(data):
        raise InvalidBitstream(
            f"first partition of {tag.first_partition_size} bytes in a frame of {len(data)} (byte 0)"
        )
    if tag.key_frame:
        _refuse_empty_space(tag, len(data))
    octets = np.frombuffer(data, np.uint8)
    reader = BoolReader(octets, tag.size, len(data))
    carried = None if state is None else _carried(state)
    header, probabilities = parse_frame_header(tag, carried, reader)
    if 3 in (header.copy_to_golden, header.copy_to_altref):
        raise InvalidBitstream(
            "frame copies a reference from buffer 3, which does not exist (header)"
        )
    starts, ends = _partitions(
        data, tag.size + tag.first_partition_size, 1 << header.log2_partitions
    )
    _refuse_impossible_starts(data, [tag.size, *starts], [len(data), *ends])
    windows = np.zeros((len(starts), 5), np.int64)
    open_windows(octets, np.array(starts), np.array(ends), windows)
    return OpenFrame(header, probabilities, octets, reader, windows)


def _carried(state: DecoderState) -> Carried:
    return Carried(
        state.width,
        state.height,
        state.horizontal_scale,
        state.vertical_scale,
        state.color_space,
        state.clamping_type,
        state.probabilities,
    )


def _refuse_empty_space(tag: FrameTag, size: int) -> None:
    """Key frames spend more than two bits on each macroblock, so memory stays in proportion to the data."""
    rows, columns = macroblock_size(tag.width, tag.height)
    if rows * columns > 8 * size:
        raise InvalidBitstream(
            f"key frame of {tag.width}x{tag.height} pixels in {size} bytes (byte 6)"
        )


def _partitions(data: bytes, at: int, count: int) -> tuple[list[int], list[int]]:
    """Starts and ends of the token partitions (section 9.5), with libvpx's tolerance: missing ones at the end are empty."""
    start = at + 3 * (count - 1)
    if start > len(data):
        raise InvalidBitstream(
            f"frame ends within the sizes of its {count} token partitions (byte {at})"
        )
    starts, ends = [], []
    for index in range(count):
        size = len(data) - start
        if index < count - 1 and size:
            coded = int.from_bytes(data[at + 3 * index : at + 3 * index + 3], "little")
            if not 0 < coded <= size:
                raise InvalidBitstream(
                    f"token partition {index} of {coded} bytes, {size} are left (byte {at + 3 * index})"
                )
            size = coded
        starts.append(start)
        start += size
        ends.append(start)
    return starts, ends


def _refuse_impossible_starts(data: bytes, starts: list[int], ends: list[int]) -> None:
    """No boolean coder begins with the byte 255: it would be past the range that it starts with (section 7.3)."""
    for start, end in zip(starts, ends, strict=True):
        if start < end and data[start] == 255:
            raise InvalidBitstream(f"a partition begins with the byte 255 (byte {start})")


def refuse_truncated_start(state: DecoderState | None, opened: OpenFrame) -> None:
    """A stream must begin with a complete key frame; later frames may run out of data, as in libvpx."""
    if state is not None:
        return
    if opened.reader.ran_out:
        raise InvalidBitstream("the stream's first key frame ends within its first partition")
    rows, _ = macroblock_size(opened.header.width, opened.header.height)
    _, _, bits, position, end = opened.windows[:rows].T  # partitions beyond the rows are not read
    short = np.flatnonzero(8 * (position - end) > bits)
    if len(short):
        raise InvalidBitstream(
            f"the stream's first key frame ends within token partition {short[0]}"
        )


def read_frame_modes(opened: OpenFrame, macroblocks: Macroblocks) -> None:
    """Read the modes of all macroblocks; the reader is left after the first partition."""
    header = opened.header
    read_modes(
        opened.data,
        opened.reader.window,
        mode_probabilities(header, opened.probabilities),
        header.key_frame,
        header.segmentation.update_map,
        header.skip_enabled,
        header.sign_bias,
        macroblocks,
    )


# Serializing -------------------------------------------------------------------------------------------------------


def _serialize_first_partition(frame: Frame, before: ProbabilityTables) -> bytes:
    header, macroblocks = frame.header, frame.macroblocks
    capacity = HEADER_CAPACITY + MODES_CAPACITY * macroblocks.y_mode.size
    while True:
        writer = BoolWriter(capacity)
        serialize_frame_header(header, before, frame.probabilities, writer)
        write_modes(writer, header, frame.probabilities, macroblocks)
        if writer.size + 8 <= capacity:
            return writer.finish()
        capacity = writer.size + 64


def _serialize_tokens(frame: Frame, count: int) -> list[bytes]:
    macroblocks = frame.macroblocks
    coefficients = frame.probabilities.coefficients.reshape(-1)
    capacity = 64 + TOKENS_CAPACITY * macroblocks.y_mode.size
    while True:
        states, outs = np.zeros((count, 4), np.int64), np.empty((count, capacity), np.uint8)
        write_tokens(coefficients, macroblocks, states, outs)
        needed = int(states[:, 3].max())
        if needed <= capacity:
            return [out[: state[3]].tobytes() for state, out in zip(states, outs, strict=True)]
        capacity = needed
