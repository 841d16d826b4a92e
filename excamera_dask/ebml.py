"""Elements of EBML files (RFC 8794), of which Matroska and WebM are made."""

from __future__ import annotations

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
