"""Frame headers: parse and serialize are inverse to each other, and refuse what is not a header."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codec.bool_coder import BoolReader, BoolWriter
from codec.errors import InvalidBitstream, UnsupportedFeature
from codec.frame_header import (
    DEFAULT_PROBABILITIES,
    FIRST_PARTITION_LIMIT,
    Carried,
    FilterDeltaUpdate,
    FrameHeader,
    FrameTag,
    QuantizerIndices,
    SegmentationUpdate,
    parse_frame_header,
    parse_frame_tag,
    serialize_frame_header,
    serialize_frame_tag,
)

CARRIED = Carried(64, 48, 1, 2, 1, 0, DEFAULT_PROBABILITIES)
byte = st.integers(0, 255)


def four(values: st.SearchStrategy[int | None]) -> st.SearchStrategy[tuple[int | None, ...]]:
    return st.tuples(values, values, values, values)


quantizers = four(st.integers(-127, 127))
levels = four(st.integers(-63, 63))
trees = st.tuples(byte, byte, byte)
segmentations = st.one_of(
    st.just(SegmentationUpdate()),
    st.builds(SegmentationUpdate, st.just(True), st.booleans(), quantizers, levels, trees),
    st.builds(SegmentationUpdate, st.just(True), st.just(False), st.none(), st.none(), trees),
)
deltas = four(st.none() | st.integers(-63, 63))
filter_deltas = st.one_of(
    st.just(FilterDeltaUpdate()),
    st.just(FilterDeltaUpdate(enabled=True)),
    st.builds(FilterDeltaUpdate, st.just(True), st.just(True), deltas, deltas),
)
small = st.integers(-15, 15)
indices = st.builds(QuantizerIndices, st.integers(0, 127), small, small, small, small, small)


@st.composite
def headers(draw: st.DrawFn) -> FrameHeader:
    """Any header that can be written, of a frame that comes after CARRIED."""
    key = draw(st.booleans())
    size = (draw(st.integers(1, 16383)), draw(st.integers(1, 16383))) if key else (64, 48)
    scales = (draw(st.integers(0, 3)), draw(st.integers(0, 3))) if key else (1, 2)
    colors = (draw(st.integers(0, 1)), draw(st.integers(0, 1))) if key else (1, 0)
    golden, altref = (True, True) if key else (draw(st.booleans()), draw(st.booleans()))
    skip = draw(st.booleans())
    return FrameHeader(
        key,
        draw(st.integers(0, 7)),
        draw(st.booleans()),
        *size,
        *scales,
        *colors,
        draw(segmentations),
        draw(st.booleans()),
        draw(st.integers(0, 63)),
        draw(st.integers(0, 7)),
        draw(filter_deltas),
        draw(st.integers(0, 3)),
        draw(indices),
        golden,
        altref,
        0 if golden else draw(st.integers(0, 2)),
        0 if altref else draw(st.integers(0, 2)),
        False if key else draw(st.booleans()),
        False if key else draw(st.booleans()),
        draw(st.booleans()),
        True if key else draw(st.booleans()),
        skip,
        draw(byte) if skip else 0,
        0 if key else draw(byte),
        0 if key else draw(byte),
        0 if key else draw(byte),
    )


@given(headers(), st.integers(0, 2**32 - 1), st.integers(0, FIRST_PARTITION_LIMIT))
@settings(max_examples=150, deadline=None)
def test_what_is_serialized_is_parsed(header: FrameHeader, seed: int, size: int) -> None:
    random = np.random.default_rng(seed)
    coefficients = DEFAULT_PROBABILITIES.coefficients.copy()
    changed = random.random(coefficients.shape) < 0.05
    coefficients[changed] = random.integers(0, 256, np.count_nonzero(changed))
    probabilities = DEFAULT_PROBABILITIES._replace(coefficients=coefficients)
    if not header.key_frame:
        vectors = np.maximum(2 * random.integers(0, 128, (2, 19)), 1).astype(np.uint8)
        y_mode = random.integers(0, 256, 4).astype(np.uint8)
        probabilities = probabilities._replace(vectors=vectors, y_mode=y_mode)
    writer = BoolWriter(4096)
    serialize_frame_header(header, DEFAULT_PROBABILITIES, probabilities, writer)
    tag = FrameTag(header.key_frame, header.version, header.show, size)
    if header.key_frame:
        sizes = (header.width, header.height, header.horizontal_scale, header.vertical_scale)
        tag = FrameTag(*tag[:4], *sizes)
    data = serialize_frame_tag(tag) + writer.finish()
    assert parse_frame_tag(data) == tag
    reader = BoolReader(np.frombuffer(data, np.uint8), tag.size, len(data))
    parsed, tables = parse_frame_header(tag, CARRIED, reader)
    assert parsed == header
    assert all(np.array_equal(a, b) for a, b in zip(tables, probabilities, strict=True))


def test_parsing_leaves_the_carried_tables_alone() -> None:
    coefficients = DEFAULT_PROBABILITIES.coefficients.copy()
    reader = BoolReader(np.frombuffer(bytes(100), np.uint8), 0, 100)
    parse_frame_header(FrameTag(False, 0, True, 10), CARRIED, reader)
    assert np.array_equal(coefficients, DEFAULT_PROBABILITIES.coefficients)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "too short"),
        (b"\x11\x00", "too short"),
        (bytes.fromhex("1000009d012a1000"), "too short"),
        (bytes.fromhex("1000009d012b10001000"), "start code"),
        (bytes.fromhex("1000009d012a00001000"), "0x16"),
        (bytes.fromhex("1000009d012a10000040"), "16x0"),
    ],
)
def test_broken_tags_are_refused(data: bytes, words: str) -> None:
    with pytest.raises(InvalidBitstream, match=words):
        parse_frame_tag(data)


def test_odd_vector_probabilities_cannot_be_written() -> None:
    vectors = DEFAULT_PROBABILITIES.vectors.copy()
    vectors[0, 0] = 77
    header = parse_frame_header(
        FrameTag(False, 0, True, 10),
        CARRIED,
        BoolReader(np.frombuffer(bytes(100), np.uint8), 0, 100),
    )[0]
    with pytest.raises(UnsupportedFeature, match="vector probability"):
        serialize_frame_header(
            header,
            DEFAULT_PROBABILITIES,
            DEFAULT_PROBABILITIES._replace(vectors=vectors),
            BoolWriter(999),
        )


def test_first_partition_has_a_limit() -> None:
    with pytest.raises(UnsupportedFeature, match="first partition"):
        serialize_frame_tag(FrameTag(False, 0, True, FIRST_PARTITION_LIMIT + 1))
