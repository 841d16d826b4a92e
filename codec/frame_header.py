"""The frame header (RFC 6386 chapters 9 and 19.2): parsed, and written back.

Probability updates are not part of a FrameHeader: `parse_frame_header` gives the tables in force, and `serialize_frame_header`
writes the updates that lead from one set of tables to another.
"""

from __future__ import annotations

from typing import NamedTuple, get_type_hints

import numpy as np
from numpy.typing import NDArray

from codec.bool_coder import (
    BoolReader,
    BoolWriter,
    load_window,
    read_bits,
    read_bool,
    store_window,
    write_bits,
    write_bool,
)
from codec.checks import check_flag
from codec.errors import InvalidBitstream, UnsupportedFeature
from codec.kernel import kernel
from codec.state import ProbabilityTables
from codec.tables import (
    COEFF_UPDATE_PROBS,
    DEFAULT_COEFF_PROBS,
    DEFAULT_MV_PROBS,
    DEFAULT_UV_MODE_PROBS,
    DEFAULT_YMODE_PROBS,
    MV_UPDATE_PROBS,
)

START_CODE = b"\x9d\x01\x2a"
TAG_SIZE = 3
KEY_FRAME_HEADER_SIZE = 10
FIRST_PARTITION_LIMIT = (1 << 19) - 1
PARTITION_LIMIT = (1 << 24) - 1

DEFAULT_PROBABILITIES = ProbabilityTables(
    DEFAULT_COEFF_PROBS, DEFAULT_YMODE_PROBS, DEFAULT_UV_MODE_PROBS, DEFAULT_MV_PROBS
)
"""What a key frame begins with (sections 13.5, 16.2 and 17.2)."""


class FrameTag(NamedTuple):
    """The uncompressed start of a frame (section 9.1); sizes and scales are those of key frames, else 0."""

    key_frame: bool
    version: int
    show: bool
    first_partition_size: int
    width: int = 0
    height: int = 0
    horizontal_scale: int = 0
    vertical_scale: int = 0

    @property
    def size(self) -> int:
        """Bytes before the first partition."""
        return KEY_FRAME_HEADER_SIZE if self.key_frame else TAG_SIZE


class SegmentationUpdate(NamedTuple):
    """Segment-based adjustments (section 9.3); values are None where the frame does not update them."""

    enabled: bool = False
    absolute: bool = False
    quantizer: tuple[int, ...] | None = None  # 4 values, -127..127
    filter_level: tuple[int, ...] | None = None  # 4 values, -63..63
    tree_probabilities: tuple[int, int, int] | None = None  # given when the map is updated

    @property
    def update_data(self) -> bool:
        return self.quantizer is not None

    @property
    def update_map(self) -> bool:
        return self.tree_probabilities is not None


NO_UPDATES: tuple[int | None, ...] = (None,) * 4


class FilterDeltaUpdate(NamedTuple):
    """Loop-filter deltas (section 9.6); None where a delta stays as it is."""

    enabled: bool = False
    update: bool = False
    reference: tuple[int | None, ...] = NO_UPDATES  # intra, LAST, GOLDEN, ALTREF; -63..63
    mode: tuple[int | None, ...] = NO_UPDATES  # B_PRED, ZEROMV, other vectors, SPLITMV


class QuantizerIndices(NamedTuple):
    """Quantizer index 0..127 and its deltas -15..15 (section 9.6)."""

    y_ac: int
    y_dc_delta: int = 0
    y2_dc_delta: int = 0
    y2_ac_delta: int = 0
    uv_dc_delta: int = 0
    uv_ac_delta: int = 0


class FrameHeader(NamedTuple):
    """All that a frame says before its macroblocks, probability updates apart.

    On inter frames the sizes, scales, colour space and clamping type are those that the last key frame set.
    """

    key_frame: bool
    version: int
    show: bool
    width: int
    height: int
    horizontal_scale: int
    vertical_scale: int
    color_space: int
    clamping_type: int
    segmentation: SegmentationUpdate
    simple_filter: bool
    filter_level: int
    sharpness: int
    filter_deltas: FilterDeltaUpdate
    log2_partitions: int
    quantizer: QuantizerIndices
    refresh_golden: bool
    refresh_altref: bool
    copy_to_golden: int  # 0 none, 1 LAST, 2 ALTREF
    copy_to_altref: int  # 0 none, 1 LAST, 2 GOLDEN
    sign_bias_golden: bool
    sign_bias_altref: bool
    refresh_entropy: bool
    refresh_last: bool
    skip_enabled: bool  # macroblocks say whether they have coefficients (mb_no_skip_coeff)
    prob_skip_false: int
    prob_intra: int
    prob_last: int
    prob_golden: int

    def check_flags(self) -> None:
        """Raises ValueError for a flag that is not a bool."""
        for name in _FLAGS:
            check_flag(f"{name} of a frame", getattr(self, name))

    @property
    def sign_bias(self) -> NDArray[np.uint8]:
        """(4,) uint8, by reference frame."""
        return np.array((0, 0, self.sign_bias_golden, self.sign_bias_altref), np.uint8)


_FLAGS = [name for name, kind in get_type_hints(FrameHeader).items() if kind is bool]


class Carried(NamedTuple):
    """What an inter frame's header takes over from the frames before it."""

    width: int
    height: int
    horizontal_scale: int
    vertical_scale: int
    color_space: int
    clamping_type: int
    probabilities: ProbabilityTables


def parse_frame_tag(data: bytes) -> FrameTag:
    """The uncompressed data chunk (section 9.1); raises InvalidBitstream where libvpx does."""
    if len(data) < TAG_SIZE:
        raise InvalidBitstream(f"frame of {len(data)} bytes is too short for a frame tag (byte 0)")
    bits = int.from_bytes(data[:TAG_SIZE], "little")
    # 0 is a key frame (erratum 5534: section 9.1 says it the other way round)
    key_frame, version, show, first = not bits & 1, bits >> 1 & 7, bool(bits >> 4 & 1), bits >> 5
    if not key_frame:
        return FrameTag(False, version, show, first)
    if len(data) < KEY_FRAME_HEADER_SIZE:
        raise InvalidBitstream(
            f"key frame of {len(data)} bytes is too short for its header (byte 3)"
        )
    # in this order of bytes (erratum 7370: read as one number, as section 9.1 does, they come reversed)
    if data[3:6] != START_CODE:
        raise InvalidBitstream(
            f"key frame with start code {data[3:6].hex()} instead of 9d012a (byte 3)"
        )
    width, height = int.from_bytes(data[6:8], "little"), int.from_bytes(data[8:10], "little")
    if not width & 0x3FFF or not height & 0x3FFF:
        raise InvalidBitstream(f"key frame of {width & 0x3FFF}x{height & 0x3FFF} pixels (byte 6)")
    return FrameTag(
        True, version, show, first, width & 0x3FFF, height & 0x3FFF, width >> 14, height >> 14
    )


def serialize_frame_tag(tag: FrameTag) -> bytes:
    """The bytes that `parse_frame_tag` reads."""
    if tag.first_partition_size > FIRST_PARTITION_LIMIT:
        raise UnsupportedFeature(
            f"first partition of {tag.first_partition_size} bytes; VP8 allows {FIRST_PARTITION_LIMIT}"
        )
    bits = (not tag.key_frame) | tag.version << 1 | tag.show << 4 | tag.first_partition_size << 5
    data = bits.to_bytes(TAG_SIZE, "little")
    if not tag.key_frame:
        return data
    sizes = (tag.width | tag.horizontal_scale << 14, tag.height | tag.vertical_scale << 14)
    return data + START_CODE + b"".join(size.to_bytes(2, "little") for size in sizes)


def parse_frame_header(
    tag: FrameTag, carried: Carried | None, reader: BoolReader
) -> tuple[FrameHeader, ProbabilityTables]:
    """The compressed header (section 9.2 on) and the probabilities in force for this frame.

    `carried` is needed for inter frames only. The reader is left before the first macroblock.
    """
    inter = not tag.key_frame
    if inter:
        if carried is None:
            raise InvalidBitstream("the first frame of a stream must be a key frame (byte 0)")
        *sizes, color_space, clamping_type, probabilities = carried
    else:
        sizes = [tag.width, tag.height, tag.horizontal_scale, tag.vertical_scale]
        color_space, clamping_type = reader.read_literal(1), reader.read_literal(1)
        probabilities = DEFAULT_PROBABILITIES
    width, height, horizontal_scale, vertical_scale = sizes
    header = FrameHeader(  # what a key frame does not say is what it means
        key_frame=tag.key_frame,
        version=tag.version,
        show=tag.show,
        width=width,
        height=height,
        horizontal_scale=horizontal_scale,
        vertical_scale=vertical_scale,
        color_space=color_space,
        clamping_type=clamping_type,
        segmentation=_parse_segmentation(reader),
        simple_filter=reader.read_flag(),
        filter_level=reader.read_literal(6),
        sharpness=reader.read_literal(3),
        filter_deltas=_parse_filter_deltas(reader),
        log2_partitions=reader.read_literal(2),
        quantizer=_parse_quantizer(reader),
        refresh_golden=(golden := reader.read_flag() if inter else True),
        refresh_altref=(altref := reader.read_flag() if inter else True),
        copy_to_golden=0 if golden else reader.read_literal(2),
        copy_to_altref=0 if altref else reader.read_literal(2),
        sign_bias_golden=inter and reader.read_flag(),
        sign_bias_altref=inter and reader.read_flag(),
        refresh_entropy=reader.read_flag(),
        refresh_last=reader.read_flag() if inter else True,
        skip_enabled=False,
        prob_skip_false=0,
        prob_intra=0,
        prob_last=0,
        prob_golden=0,
    )
    coefficients = probabilities.coefficients.copy()
    _read_coefficient_updates(reader.data, reader.window, coefficients.reshape(-1))
    probabilities = probabilities._replace(coefficients=coefficients)
    if reader.read_flag():
        header = header._replace(skip_enabled=True, prob_skip_false=reader.read_literal(8))
    if inter:
        prob_intra, prob_last, prob_golden = (reader.read_literal(8) for _ in range(3))
        header = header._replace(
            prob_intra=prob_intra, prob_last=prob_last, prob_golden=prob_golden
        )
        probabilities = _parse_mode_probabilities(reader, probabilities)
    return header, probabilities


def serialize_frame_header(
    header: FrameHeader, before: ProbabilityTables, after: ProbabilityTables, writer: BoolWriter
) -> None:
    """Write the compressed header, with the updates that lead from the tables `before` to those `after`.

    `before` is what the decoder has when the frame comes; key frames begin with the defaults whatever it is.
    """
    if header.key_frame:
        writer.write_literal(header.color_space, 1)
        writer.write_literal(header.clamping_type, 1)
        before = DEFAULT_PROBABILITIES
    _serialize_segmentation(header.segmentation, writer)
    writer.write_flag(header.simple_filter)
    writer.write_literal(header.filter_level, 6)
    writer.write_literal(header.sharpness, 3)
    _serialize_filter_deltas(header.filter_deltas, writer)
    writer.write_literal(header.log2_partitions, 2)
    writer.write_literal(header.quantizer.y_ac, 7)
    for delta in header.quantizer[1:]:
        writer.write_optional(delta or None, 4)
    if not header.key_frame:
        writer.write_flag(header.refresh_golden)
        writer.write_flag(header.refresh_altref)
        if not header.refresh_golden:
            writer.write_literal(header.copy_to_golden, 2)
        if not header.refresh_altref:
            writer.write_literal(header.copy_to_altref, 2)
        writer.write_flag(header.sign_bias_golden)
        writer.write_flag(header.sign_bias_altref)
    writer.write_flag(header.refresh_entropy)
    if not header.key_frame:
        writer.write_flag(header.refresh_last)
    # Copies, since read-only arrays (of the defaults, of a state's bytes) would be compiled for once more
    old, new = before.coefficients.ravel().copy(), after.coefficients.ravel().copy()
    _write_coefficient_updates(writer.state, writer.out, old, new)
    writer.write_flag(header.skip_enabled)
    if header.skip_enabled:
        writer.write_literal(header.prob_skip_false, 8)
    if not header.key_frame:
        for probability in (header.prob_intra, header.prob_last, header.prob_golden):
            writer.write_literal(probability, 8)
        _serialize_mode_probabilities(before, after, writer)


def _parse_segmentation(reader: BoolReader) -> SegmentationUpdate:
    if not reader.read_flag():
        return SegmentationUpdate()
    update_map, update_data = reader.read_flag(), reader.read_flag()
    absolute = False
    quantizer = filter_level = probabilities = None
    if update_data:
        # as section 19.2 has it; section 9.3 has it the other way round (erratum 7519)
        absolute = reader.read_flag()
        quantizer = tuple(reader.read_optional(7) or 0 for _ in range(4))
        filter_level = tuple(reader.read_optional(6) or 0 for _ in range(4))
    if update_map:
        first, second, third = (
            reader.read_literal(8) if reader.read_flag() else 255 for _ in range(3)
        )
        probabilities = (first, second, third)
    return SegmentationUpdate(True, absolute, quantizer, filter_level, probabilities)


def _parse_quantizer(reader: BoolReader) -> QuantizerIndices:
    return QuantizerIndices(
        reader.read_literal(7), *(reader.read_optional(4) or 0 for _ in range(5))
    )


def _serialize_segmentation(update: SegmentationUpdate, writer: BoolWriter) -> None:
    writer.write_flag(update.enabled)
    if not update.enabled:
        return
    writer.write_flag(update.update_map)
    writer.write_flag(update.update_data)
    if update.quantizer is not None and update.filter_level is not None:
        writer.write_flag(update.absolute)
        for value in update.quantizer:
            writer.write_optional(value or None, 7)
        for value in update.filter_level:
            writer.write_optional(value or None, 6)
    for probability in update.tree_probabilities or ():
        writer.write_flag(probability != 255)
        if probability != 255:
            writer.write_literal(probability, 8)


def _parse_filter_deltas(reader: BoolReader) -> FilterDeltaUpdate:
    if not reader.read_flag():
        return FilterDeltaUpdate()
    if not reader.read_flag():
        return FilterDeltaUpdate(enabled=True)
    reference = tuple(reader.read_optional(6) for _ in range(4))
    return FilterDeltaUpdate(
        True, True, reference, tuple(reader.read_optional(6) for _ in range(4))
    )


def _serialize_filter_deltas(update: FilterDeltaUpdate, writer: BoolWriter) -> None:
    writer.write_flag(update.enabled)
    if update.enabled:
        writer.write_flag(update.update)
    if update.enabled and update.update:
        for delta in update.reference + update.mode:
            writer.write_optional(delta, 6)


def _parse_mode_probabilities(reader: BoolReader, before: ProbabilityTables) -> ProbabilityTables:
    """Sections 9.10 and 9.11: luma modes, chroma modes, vectors."""
    y_mode, uv_mode = before.y_mode, before.uv_mode
    if reader.read_flag():
        y_mode = np.array([reader.read_literal(8) for _ in range(4)], np.uint8)
    if reader.read_flag():
        uv_mode = np.array([reader.read_literal(8) for _ in range(3)], np.uint8)
    vectors = before.vectors.copy()
    _read_vector_updates(reader.data, reader.window, vectors)
    return ProbabilityTables(before.coefficients, y_mode, uv_mode, vectors)


def _serialize_mode_probabilities(
    before: ProbabilityTables, after: ProbabilityTables, writer: BoolWriter
) -> None:
    for old, new in ((before.y_mode, after.y_mode), (before.uv_mode, after.uv_mode)):
        changed = not np.array_equal(old, new)
        writer.write_flag(changed)
        for probability in new if changed else ():
            writer.write_literal(int(probability), 8)
    changed_vectors = after.vectors[after.vectors != before.vectors]
    if np.any((changed_vectors != 1) & (changed_vectors % 2 == 1)) or np.any(changed_vectors == 0):
        raise UnsupportedFeature("a vector probability must be 1 or even to be written")
    _write_vector_updates(writer.state, writer.out, before.vectors.copy(), after.vectors.copy())


@kernel
def _read_coefficient_updates(data, window, probabilities):
    """Section 13.4; probabilities is (1056,) uint8."""
    update_probabilities = COEFF_UPDATE_PROBS.reshape(-1)
    moved = load_window(window)
    for i in range(len(probabilities)):
        moved, update = read_bool(data, moved, update_probabilities[i])
        if update:
            moved, probability = read_bits(data, moved, 8)
            probabilities[i] = probability
    store_window(moved, window)


@kernel
def _write_coefficient_updates(state, out, before, after):
    """Section 13.4; before and after are (1056,) uint8."""
    update_probabilities = COEFF_UPDATE_PROBS.reshape(-1)
    for i in range(len(before)):
        update = before[i] != after[i]
        write_bool(state, out, update_probabilities[i], update)
        if update:
            write_bits(state, out, np.int64(after[i]), 8)


@kernel
def _read_vector_updates(data, window, probabilities):
    """Section 17.2; probabilities is (2, 19) uint8."""
    moved = load_window(window)
    for component in range(2):
        for i in range(19):
            moved, update = read_bool(data, moved, MV_UPDATE_PROBS[component, i])
            if update:
                moved, half = read_bits(data, moved, 7)
                probabilities[component, i] = max(2 * half, 1)
    store_window(moved, window)


@kernel
def _write_vector_updates(state, out, before, after):
    """Section 17.2; before and after are (2, 19) uint8, and what changes is even or 1."""
    for component in range(2):
        for i in range(19):
            update = before[component, i] != after[component, i]
            write_bool(state, out, MV_UPDATE_PROBS[component, i], update)
            if update:
                write_bits(state, out, np.int64(after[component, i]) >> 1, 7)
