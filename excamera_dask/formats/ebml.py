"""Elements of EBML files (RFC 8794), of which Matroska and WebM are made."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

SEGMENT = 0x18538067


class Element(NamedTuple):
    """Identifier, where the element starts, where its payload starts and stops; is_open where no size is told."""

    id: int
    start: int
    payload: int
    stop: int
    is_open: bool


def elements(data: bytes | bytearray, at: int, stop: int) -> Iterator[Element]:
    """The elements that begin in data[at:stop], one behind another; headers that are cut short end them."""
    while at < stop:
        start = at
        id_, length = _number(data, start)
        size, size_length = _number(data, start + length)
        if not length or not size_length:
            return
        at = start + length + size_length
        largest = (1 << 7 * size_length) - 1
        yield Element(id_, start, at, at + (size & largest), size & largest == largest)
        at += size & largest


def written(id_: int, payload: bytes, size_bytes: int | None = None) -> bytes:
    """An element as bytes; `size_bytes` says how long its size is, by default as short as can be."""
    if size_bytes is None:
        size_bytes = next(n for n in range(1, 9) if len(payload) < (1 << 7 * n) - 1)
    size = (1 << 7 * size_bytes) | len(payload)
    name = id_.to_bytes((id_.bit_length() + 7) // 8, "big")
    return name + size.to_bytes(size_bytes, "big") + payload


def written_integer(id_: int, value: int) -> bytes:
    """An element that holds a number >= 0."""
    return written(id_, value.to_bytes(max(1, (value.bit_length() + 7) // 8), "big"))


def written_float(id_: int, value: float) -> bytes:
    """An element that holds a number of double precision."""
    return written(id_, struct.pack(">d", value))


def segment_stop(start: bytes) -> int | None:
    """The length of a Matroska file as its first bytes tell it; None where they do not."""
    for element in elements(start, 0, len(start)):
        if element.id == SEGMENT:
            return None if element.is_open else element.stop
    return None


def _number(data: bytes | bytearray, at: int) -> tuple[int, int]:
    """A number of variable size with its length marker, and its bytes: 0 where it is cut short."""
    if at >= len(data):
        return 0, 0
    length = 9 - data[at].bit_length()
    if length > 8 or at + length > len(data):
        return 0, 0
    return int.from_bytes(data[at : at + length], "big"), length
