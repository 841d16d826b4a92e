"""The boolean coder against RFC 6386's own decoder, written out plainly."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codec.bool_coder import BoolReader, BoolWriter

booleans = st.lists(st.tuples(st.integers(0, 255), st.booleans()), max_size=300)


def reader_of(data: bytes) -> BoolReader:
    return BoolReader(np.frombuffer(data, np.uint8), 0, len(data))


def plain_read(data: bytes, probabilities: list[int]) -> list[int]:
    """Section 7.3, bit by bit; zeros follow the end."""
    at = 2
    value = int.from_bytes((data + b"\0\0")[:2], "big")
    range_, shifted, out = 255, 0, []
    for probability in probabilities:
        split = 1 + ((range_ - 1) * probability >> 8)
        bit = int(value >= split << 8)
        out.append(bit)
        value, range_ = (value - (split << 8), range_ - split) if bit else (value, split)
        while range_ < 128:
            value, range_, shifted = value << 1, range_ << 1, shifted + 1
            if shifted % 8 == 0:
                value |= data[at] if at < len(data) else 0
                at += 1
    return out


@given(booleans)
@settings(max_examples=60, deadline=None)
def test_what_is_written_is_read(sequence: list[tuple[int, bool]]) -> None:
    writer = BoolWriter(4096)
    for probability, bit in sequence:
        writer.write_bool(bit, probability)
    data = writer.finish()
    reader = reader_of(data)
    assert [reader.read_bool(probability) for probability, _ in sequence] == [
        b for _, b in sequence
    ]
    assert not reader.ran_out
    assert plain_read(data, [probability for probability, _ in sequence]) == [
        b for _, b in sequence
    ]


@given(
    st.binary(max_size=30).filter(lambda data: data[:1] != b"\xff"),
    st.lists(st.integers(0, 255), max_size=400),
)
@settings(max_examples=60, deadline=None)
def test_reading_past_the_end_gives_what_zeros_would(data: bytes, probabilities: list[int]) -> None:
    reader = reader_of(data)
    read = [reader.read_bool(probability) for probability in probabilities]
    assert read == plain_read(data, probabilities)


def test_running_out_is_noticed_when_less_than_a_byte_is_left() -> None:
    reader = reader_of(bytes(3))
    for expected in [False] * 18 + [True] * 3:  # the first bit is free: it leaves a range of 128
        assert reader.ran_out == expected
        reader.read_bool(128)


def test_no_data_has_run_out_at_once() -> None:
    assert reader_of(b"").ran_out


@given(st.lists(st.tuples(st.integers(1, 16), st.integers(0, 65535)), max_size=40))
@settings(max_examples=30, deadline=None)
def test_literals(fields: list[tuple[int, int]]) -> None:
    writer = BoolWriter(4096)
    for count, value in fields:
        writer.write_literal(value % (1 << count), count)
        writer.write_optional((value % 7 - 3) or None, 4)
    reader = reader_of(writer.finish())
    for count, value in fields:
        assert reader.read_literal(count) == value % (1 << count)
        assert reader.read_optional(4) == ((value % 7 - 3) or None)


def test_carry_runs_through_bytes_of_255() -> None:
    """A long run of improbable ones after probable zeros pushes the low end over many times."""
    sequence = [(1, 1)] * 50 + [(254, 0), (254, 1)] * 200 + [(255, 0)] * 500 + [(1, 0)] * 20
    writer = BoolWriter(4096)
    for probability, bit in sequence:
        writer.write_bool(bit, probability)
    assert plain_read(writer.finish(), [p for p, _ in sequence]) == [b for _, b in sequence]


def test_writer_says_when_its_room_was_too_small() -> None:
    writer = BoolWriter(4)
    for _ in range(100):
        writer.write_literal(1, 1)
    with pytest.raises(OverflowError):
        writer.finish()
    assert writer.size > 4
