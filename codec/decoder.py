"""Frames to states and pictures, bit for bit as libvpx: `parse`, `serialize` and `decode` (RFC 6386 chapters 9 and 15 to 20)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from codec.bool_coder import BoolReader, BoolWriter, open_windows
from codec.borders import extend_borders
from codec.errors import InvalidBitstream, UnsupportedFeature
from codec.frame import (
    Frame,
    Image,
    Macroblocks,
    Picture,
    macroblock_size,
    new_macroblocks,
    new_picture,
)
from codec.frame_header import (
    DEFAULT_PROBABILITIES,
    PARTITION_LIMIT,
    Carried,
    FrameHeader,
    FrameTag,
    parse_frame_header,
    parse_frame_tag,
    serialize_frame_header,
    serialize_frame_tag,
)
from codec.kernel import allocating_kernel
from codec.loop_filter import filter_levels, loop_filter_frame
from codec.modes import mode_probabilities, read_modes, write_modes
from codec.predict_intra import set_intra_border
from codec.quantize import segment_quantizers
from codec.reconstruct import reconstruct_row
from codec.state import DecoderState, FilterDeltas, ProbabilityTables, References, Segmentation
from codec.tokens import CONTEXTS, read_tokens, read_tokens_row, write_tokens

HEADER_CAPACITY = 4096
MODES_CAPACITY = 64
TOKENS_CAPACITY = 400
"""First guesses of bytes: of a header, and of a macroblock's modes and tokens. Writers that need more are run again."""


class _OpenFrame(NamedTuple):
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
    opened = _open(state, data)
    header = opened.header
    macroblocks = new_macroblocks(*macroblock_size(header.width, header.height))
    macroblocks.segment[:] = _segment_map_before(state, header)
    _read_modes(opened, macroblocks)
    coefficients = opened.probabilities.coefficients.reshape(-1)
    read_tokens(opened.data, opened.windows, coefficients, macroblocks)
    _refuse_truncated_start(state, opened)
    return Frame(header, opened.probabilities, macroblocks)


def decode(state: DecoderState | None, data: bytes) -> tuple[DecoderState, Image | None]:
    """Decode a frame that comes after `state` (None at the start of a stream): the next state, and what is shown.

    The image is None for hidden frames; empty data shows LAST again. Raises InvalidBitstream for data that libvpx
    refuses, and leaves `state` as it was.
    """
    if not data and state is not None and state.references is not None:
        return state, state.references.last.crop(state.width, state.height)
    opened = _open(state, data)
    header = opened.header
    rows, columns = macroblock_size(header.width, header.height)
    macroblocks = _new_row_buffered_macroblocks(rows, columns)
    macroblocks.segment[:] = _segment_map_before(state, header)
    _read_modes(opened, macroblocks)
    segmentation = _segmentation_after(state, header, macroblocks.segment)
    filter_deltas = _filter_deltas_after(state, header)
    picture = new_picture(rows, columns)
    _decode_rows(
        opened.data,
        opened.windows,
        opened.probabilities.coefficients.reshape(-1),
        macroblocks,
        _quantizers(header, segmentation),
        _references_to_read(state, header, picture),
        header.version,
        picture,
    )
    _refuse_truncated_start(state, opened)
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
        _probabilities_after(state, header, opened.probabilities),
        segmentation,
        filter_deltas,
        references_after(state, header, picture),
    )
    return after, picture.crop(header.width, header.height) if header.show else None


def serialize(state: DecoderState | None, frame: Frame) -> bytes:
    """Write a frame that a decoder in `state` will read as `frame`: the inverse of `parse`.

    Probability updates lead from the state's tables to the frame's. Raises UnsupportedFeature for what VP8 cannot say.
    """
    header, macroblocks = frame.header, frame.macroblocks
    before = DEFAULT_PROBABILITIES if header.key_frame or state is None else state.probabilities
    first = _serialize_first_partition(frame, before)
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


def _open(state: DecoderState | None, data: bytes) -> _OpenFrame:
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
    return _OpenFrame(header, probabilities, octets, reader, windows)


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


def _refuse_truncated_start(state: DecoderState | None, opened: _OpenFrame) -> None:
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


def _segment_map_before(state: DecoderState | None, header: FrameHeader) -> NDArray[np.uint8]:
    """The map that a frame without one of its own has: key frames clear it."""
    if header.key_frame or state is None:
        return np.zeros(macroblock_size(header.width, header.height), np.uint8)
    return state.segmentation.map


def _read_modes(opened: _OpenFrame, macroblocks) -> None:  # type: ignore[no-untyped-def]
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


# Pixels ------------------------------------------------------------------------------------------------------------


def _new_row_buffered_macroblocks(rows: int, columns: int) -> Macroblocks:
    """Macroblocks of a frame, but with levels and ends of blocks of one row only."""
    return new_macroblocks(rows, columns)._replace(
        coefficients=np.zeros((1, columns, 25, 16), np.int16),
        eobs=np.zeros((1, columns, 25), np.uint8),
    )


def _quantizers(header: FrameHeader, segmentation: Segmentation) -> NDArray[np.int16]:
    """(4, 6) int16: dequantization factors of each segment."""
    indices = header.quantizer
    values = segmentation.quantizer.tolist() if segmentation.enabled else None
    return segment_quantizers(indices.y_ac, indices[1:], values, segmentation.absolute)


def _references_to_read(
    state: DecoderState | None, header: FrameHeader, picture: Picture
) -> References:
    """The pictures to predict from; key frames look at none, but the kernel wants some."""
    if header.key_frame:
        return References(picture, picture, picture)
    if state is None or state.references is None:
        raise ValueError("this state has no reference pictures: it serves for parsing only")
    return state.references


def _filter(
    header: FrameHeader,
    segmentation: Segmentation,
    deltas: FilterDeltas,
    macroblocks: Macroblocks,
    picture: Picture,
) -> None:
    levels = filter_levels(header.filter_level, segmentation, deltas)
    loop_filter_frame(
        picture, macroblocks, levels, header.sharpness, header.simple_filter, header.key_frame
    )


@allocating_kernel
def _decode_rows(data, windows, probabilities, macroblocks, factors, references, version, picture):  # type: ignore[no-untyped-def]
    """Read tokens and reconstruct, row by row; macroblocks as `_new_row_buffered_macroblocks` makes them."""
    set_intra_border(picture)
    rows, columns = macroblocks.y_mode.shape
    levels, eobs = macroblocks.coefficients[0], macroblocks.eobs[0]
    flat_levels = levels.reshape(columns, 400)
    above = np.zeros((columns, CONTEXTS), np.uint8)
    left = np.zeros(CONTEXTS, np.uint8)
    coefficients = np.zeros((25, 16), np.int16)
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


# What a frame leaves behind ----------------------------------------------------------------------------------------


def _segmentation_after(
    state: DecoderState | None, header: FrameHeader, segments: NDArray[np.uint8]
) -> Segmentation:
    """Section 9.3: values and map persist until updated; key frames reset them."""
    update = header.segmentation
    zeros = np.zeros(4, np.int8)
    absolute, quantizer, filter_level = False, zeros, zeros
    if state is not None and not header.key_frame:
        _, absolute, quantizer, filter_level, _ = state.segmentation
    if update.update_data:
        absolute = update.absolute
        quantizer, filter_level = (
            np.array(update.quantizer, np.int8),
            np.array(update.filter_level, np.int8),
        )
    return Segmentation(update.enabled, absolute, quantizer, filter_level, segments)


def _filter_deltas_after(state: DecoderState | None, header: FrameHeader) -> FilterDeltas:
    """Section 9.6: deltas persist until updated; key frames reset them."""
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


def _probabilities_after(
    state: DecoderState | None, header: FrameHeader, in_force: ProbabilityTables
) -> ProbabilityTables:
    """Section 9.11: a frame may keep its probabilities to itself."""
    if header.refresh_entropy:
        return in_force
    return DEFAULT_PROBABILITIES if header.key_frame or state is None else state.probabilities


def references_after(
    state: DecoderState | None, header: FrameHeader, picture: Picture
) -> References:
    """Sections 9.7 and 9.8, in libvpx's order: ALTREF is copied before GOLDEN, and both before they are refreshed."""
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


# Serializing -------------------------------------------------------------------------------------------------------


def _serialize_first_partition(frame: Frame, before: ProbabilityTables) -> bytes:
    header, macroblocks = frame.header, frame.macroblocks
    capacity = HEADER_CAPACITY + MODES_CAPACITY * macroblocks.y_mode.size
    while True:
        writer = BoolWriter(capacity)
        serialize_frame_header(header, before, frame.probabilities, writer)
        write_modes(
            writer.state,
            writer.out,
            mode_probabilities(header, frame.probabilities),
            header.key_frame,
            header.segmentation.update_map,
            header.skip_enabled,
            header.sign_bias,
            macroblocks,
        )
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
